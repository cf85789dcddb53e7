// Rows grow here, and only here: what the operations of all backends that add entries are made of.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "backend/backend.h"

namespace reprise {

// Entries added to the ends of rows, all or none: when it is destroyed before commit(), because
// memory or the budget was exhausted or because what was to be written failed, every row is as it
// was. Room for all is made before anything is written, so that an error leaves nothing half done.
class KvAppend {
 public:
  explicit KvAppend(Backend& backend) : backend_(backend) {}
  ~KvAppend();
  KvAppend(const KvAppend&) = delete;
  KvAppend& operator=(const KvAppend&) = delete;

  // Room for an entry at each position (strictly ascending, behind the row's last), noted in the
  // pages, k and v to be written by the caller. Returns the index of the first. A last page that
  // others hold too is copied first. Throws Error when there is no more memory or budget.
  int64_t extend(KvRow& row, std::span<const int32_t> positions);
  // A full page of another row as the next one of a row that ends with a full page.
  void share(KvRow& row, const std::shared_ptr<KvPage>& page);

  void commit() { done_.clear(); }

 private:
  struct Step {
    KvRow* row;
    int64_t entries;               // before
    std::shared_ptr<KvPage> last;  // before, where it was copied
  };
  void begin(KvRow& row);

  Backend& backend_;
  std::vector<Step> done_;
};

// A page for a row, drawn from its account.
std::shared_ptr<KvPage> new_page_for(Backend& backend, const KvRow& row);

}  // namespace reprise
