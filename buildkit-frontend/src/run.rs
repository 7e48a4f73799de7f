//! Calling a frontend.

use std::any::Any;
use std::future::Future;
use std::panic::AssertUnwindSafe;

use futures::FutureExt as _;

use crate::error::{Code, Error, Result};
use crate::gateway::Gateway;
use crate::output::BuildResult;

/// Calls `build` and makes an error of its panic.
///
/// # Errors
/// Those of `build`; [`Code::Internal`] when it panics.
pub async fn run<F, Fut, R, E>(gateway: Gateway, build: F) -> Result<BuildResult>
where
    F: FnOnce(Gateway) -> Fut,
    Fut: Future<Output = Result<R, E>>,
    R: Into<BuildResult>,
    E: Into<Error>,
{
    let built = AssertUnwindSafe(async move { build(gateway).await }).catch_unwind().await;
    match built {
        Ok(Ok(result)) => Ok(result.into()),
        Ok(Err(error)) => Err(error.into()),
        Err(panic) => {
            Err(Error::with_code(Code::Internal, format!("the frontend panicked: {}", panic_text(&*panic))))
        }
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}
