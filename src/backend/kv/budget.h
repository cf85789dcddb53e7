// How much memory KV pages may take: what a scheduler admits requests by.
//
// A budget has a limit in bytes. A request reserves all that its KV rows may come to need, all or
// nothing, before it starts; its rows' pages are then drawn from the reservation's account, and a
// page returns what it drew when its memory goes back. At any time
//     used (pages that live) + reserved (asked for, not drawn yet) <= limit.
// A page counts once, however many rows share it, for the account that it was drawn from: pages
// that outlive their request (a prefix kept) stay used but reserved no more.
//
// Thread-safe. Counted are the pages' keys and values; positions and handles come to less than 1%
// of ordinary models' pages.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>

namespace reprise {

class KvAccount;
class KvReservation;

class KvBudget : public std::enable_shared_from_this<KvBudget> {
 public:
  struct Usage {
    int64_t limit = 0;     // all in bytes
    int64_t used = 0;      // drawn by pages that live
    int64_t reserved = 0;  // by reservations that live, not drawn yet
    int64_t free() const { return limit - used - reserved; }
  };

  // limit_bytes >= 0.
  static std::shared_ptr<KvBudget> make(int64_t limit_bytes);
  // It only counts.
  static std::shared_ptr<KvBudget> unlimited();
  KvBudget(const KvBudget&) = delete;
  KvBudget& operator=(const KvBudget&) = delete;

  // None when so much isn't free now: wait, or give up something.
  std::optional<KvReservation> reserve(int64_t bytes);
  Usage usage() const;

 private:
  friend class KvAccount;
  friend class KvCharge;
  friend class KvReservation;
  explicit KvBudget(int64_t limit) : limit_(limit) {}

  // All accounts are under the budget's lock.
  mutable std::mutex mutex_;
  const int64_t limit_;
  int64_t used_ = 0;
  int64_t reserved_ = 0;
};

// What one page has drawn; returned at its end. Empty for pages that nobody counts.
class KvCharge {
 public:
  KvCharge() = default;
  ~KvCharge() { release(); }
  KvCharge(KvCharge&& other) noexcept;
  KvCharge& operator=(KvCharge&& other) noexcept;

  int64_t bytes() const { return bytes_; }
  const KvBudget* budget() const;  // null: none

 private:
  friend class KvAccount;
  KvCharge(std::shared_ptr<KvAccount> account, int64_t bytes);
  void release();

  std::shared_ptr<KvAccount> account_;
  int64_t bytes_ = 0;
};

// A reservation as rows see it. Lives as long as any of its pages; open while the reservation is.
class KvAccount : public std::enable_shared_from_this<KvAccount> {
 public:
  KvAccount(const KvAccount&) = delete;
  KvAccount& operator=(const KvAccount&) = delete;

  // From what is reserved and, where that doesn't suffice (or the reservation has ended), from what
  // is free. Throws Error when neither does; nothing is drawn then.
  KvCharge draw(int64_t bytes);
  int64_t drawn() const;  // by pages that live

 private:
  friend class KvBudget;
  friend class KvCharge;
  friend class KvReservation;
  explicit KvAccount(std::shared_ptr<KvBudget> budget) : budget_(std::move(budget)) {}
  // Sets granted and drawn and carries what follows from them to the budget. Under the lock.
  void set(int64_t granted, int64_t drawn);
  static int64_t unused(int64_t granted, int64_t drawn) {
    return granted > drawn ? granted - drawn : 0;
  }

  const std::shared_ptr<KvBudget> budget_;
  int64_t granted_ = 0;  // 0 once the reservation has ended
  int64_t drawn_ = 0;
};

// Held by the request; what it hasn't drawn is free again at its end. Pages given back while it
// lives may be drawn again.
class KvReservation {
 public:
  KvReservation(KvReservation&&) noexcept = default;
  KvReservation& operator=(KvReservation&& other) noexcept;
  ~KvReservation() { end(); }

  // For KvRow::account.
  const std::shared_ptr<KvAccount>& account() const { return account_; }
  int64_t granted() const;
  // More (all or nothing; false: that isn't free), or less: what pages have drawn stays drawn.
  bool resize(int64_t bytes);

 private:
  friend class KvBudget;
  explicit KvReservation(std::shared_ptr<KvAccount> account) : account_(std::move(account)) {}
  void end();

  std::shared_ptr<KvAccount> account_;
};

}  // namespace reprise
