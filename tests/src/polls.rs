//! Futures that are given up half way.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

/// Polls a future until it is ready or was polled `polls` times, and drops it then. `None` says that it was dropped.
pub async fn drop_after_n_polls<F: Future>(future: F, polls: usize) -> Option<F::Output> {
    Countdown { future: Some(Box::pin(future)), polls }.await
}

struct Countdown<F> {
    future: Option<Pin<Box<F>>>,
    polls: usize,
}

impl<F: Future> Future for Countdown<F> {
    type Output = Option<F::Output>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        if let Some(left) = this.polls.checked_sub(1)
            && let Some(future) = &mut this.future
        {
            this.polls = left;
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                this.future = None;
                return Poll::Ready(Some(output));
            }
            if left > 0 {
                return Poll::Pending;
            }
        }
        this.future = None;
        Poll::Ready(None)
    }
}

#[cfg(test)]
mod tests {
    use super::drop_after_n_polls;

    #[tokio::test]
    async fn a_future_is_polled_so_often_and_no_more() {
        let thrice = || async {
            tokio::task::yield_now().await;
            tokio::task::yield_now().await;
            7
        };
        assert_eq!(drop_after_n_polls(thrice(), 0).await, None);
        assert_eq!(drop_after_n_polls(thrice(), 2).await, None);
        assert_eq!(drop_after_n_polls(thrice(), 3).await, Some(7));
    }
}
