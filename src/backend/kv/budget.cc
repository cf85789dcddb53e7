#include "backend/kv/budget.h"

#include <limits>
#include <utility>

#include "base/error.h"

namespace reprise {

std::shared_ptr<KvBudget> KvBudget::make(int64_t limit_bytes) {
  REPRISE_CHECK(limit_bytes >= 0, "a KV budget of {} bytes", limit_bytes);
  return std::shared_ptr<KvBudget>(new KvBudget(limit_bytes));
}

std::shared_ptr<KvBudget> KvBudget::unlimited() {
  return make(std::numeric_limits<int64_t>::max() / 4);  // sums of what is asked for don't overflow
}

std::optional<KvReservation> KvBudget::reserve(int64_t bytes) {
  KvReservation reservation(std::shared_ptr<KvAccount>(new KvAccount(shared_from_this())));
  if (!reservation.resize(bytes)) return std::nullopt;
  return reservation;
}

KvBudget::Usage KvBudget::usage() const {
  std::lock_guard lock(mutex_);
  return {limit_, used_, reserved_};
}

KvCharge::KvCharge(std::shared_ptr<KvAccount> account, int64_t bytes)
    : account_(std::move(account)), bytes_(bytes) {}

KvCharge::KvCharge(KvCharge&& other) noexcept
    : account_(std::move(other.account_)), bytes_(std::exchange(other.bytes_, 0)) {}

KvCharge& KvCharge::operator=(KvCharge&& other) noexcept {
  if (this == &other) return *this;
  release();
  account_ = std::move(other.account_);
  bytes_ = std::exchange(other.bytes_, 0);
  return *this;
}

const KvBudget* KvCharge::budget() const { return account_ ? account_->budget_.get() : nullptr; }

void KvCharge::release() {
  if (!account_) return;
  {
    std::lock_guard lock(account_->budget_->mutex_);
    account_->set(account_->granted_, account_->drawn_ - bytes_);
  }
  account_ = nullptr;
  bytes_ = 0;
}

void KvAccount::set(int64_t granted, int64_t drawn) {
  budget_->used_ += drawn - drawn_;
  budget_->reserved_ += unused(granted, drawn) - unused(granted_, drawn_);
  granted_ = granted;
  drawn_ = drawn;
}

KvCharge KvAccount::draw(int64_t bytes) {
  REPRISE_CHECK(bytes >= 0);
  std::lock_guard lock(budget_->mutex_);
  const int64_t from_reserved = unused(granted_, drawn_) - unused(granted_, drawn_ + bytes);
  const int64_t free = budget_->limit_ - budget_->used_ - budget_->reserved_;
  if (bytes - from_reserved > free)
    fail(
        "KV cache: {} bytes more don't fit: {} of {} bytes are in use and {} reserved, {} of them "
        "for this request",
        bytes, budget_->used_, budget_->limit_, budget_->reserved_, unused(granted_, drawn_));
  set(granted_, drawn_ + bytes);
  return KvCharge(shared_from_this(), bytes);
}

int64_t KvAccount::drawn() const {
  std::lock_guard lock(budget_->mutex_);
  return drawn_;
}

KvReservation& KvReservation::operator=(KvReservation&& other) noexcept {
  if (this == &other) return *this;
  end();
  account_ = std::move(other.account_);
  return *this;
}

int64_t KvReservation::granted() const {
  std::lock_guard lock(account_->budget_->mutex_);
  return account_->granted_;
}

bool KvReservation::resize(int64_t bytes) {
  REPRISE_CHECK(bytes >= 0, "{} bytes of KV cache are asked for", bytes);
  KvAccount& account = *account_;
  KvBudget& budget = *account.budget_;
  std::lock_guard lock(budget.mutex_);
  const int64_t more = KvAccount::unused(bytes, account.drawn_) -
                       KvAccount::unused(account.granted_, account.drawn_);
  if (more > budget.limit_ - budget.used_ - budget.reserved_) return false;
  account.set(bytes, account.drawn_);
  return true;
}

void KvReservation::end() {
  if (!account_) return;
  {
    std::lock_guard lock(account_->budget_->mutex_);
    account_->set(0, account_->drawn_);
  }
  account_ = nullptr;
}

}  // namespace reprise
