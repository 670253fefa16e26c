//! A future that goes on when nobody waits for it any more.

use futures::FutureExt;
use futures::future::BoxFuture;
use std::pin::Pin;
use std::task::{Context, Poll};

/// Finishes `future` in the background if it is dropped before it is done. Costs no task as long as it is not.
pub(crate) struct Detached<T: Send + 'static> {
    /// Taken out while it is polled, so that one that panics is not polled again.
    future: Option<BoxFuture<'static, T>>,
}

impl<T: Send + 'static> Detached<T> {
    pub(crate) fn new(future: impl Future<Output = T> + Send + 'static) -> Detached<T> {
        Detached { future: Some(future.boxed()) }
    }
}

impl<T: Send + 'static> Future for Detached<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let Some(mut future) = self.future.take() else { return Poll::Pending };
        let polled = future.poll_unpin(cx);
        if polled.is_pending() {
            self.future = Some(future);
        }
        polled
    }
}

impl<T: Send + 'static> Drop for Detached<T> {
    fn drop(&mut self) {
        let Some(future) = self.future.take() else { return };
        // Without a runtime the process ends, and everything with it.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(future);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::sync::oneshot;

    #[tokio::test]
    async fn what_nobody_waits_for_is_finished_all_the_same() {
        let (begin, begun) = oneshot::channel::<u8>();
        let (end, ended) = oneshot::channel();
        let detached = Detached::new(async move {
            let _ = end.send(begun.await.unwrap() + 1);
        });
        assert!(tokio::time::timeout(Duration::from_millis(5), detached).await.is_err());
        begin.send(1).unwrap();
        assert_eq!(ended.await, Ok(2));
    }
}
