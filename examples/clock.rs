//! When a frontend got its first answer from the daemon: what its start is measured by.

use std::time::{SystemTime, UNIX_EPOCH};

use buildkit_frontend::{BuildResult, Gateway, Result};

/// Calls `build`. With the option `clock`, the result says as `frontend.first-answer` when the daemon had answered the
/// first call, in nanoseconds since 1970.
pub(crate) async fn clocked<Fut>(gateway: Gateway, build: impl FnOnce(Gateway) -> Fut) -> Result<BuildResult>
where
    Fut: Future<Output = Result<BuildResult>>,
{
    // A frontend is called when the daemon has answered its first call.
    let answered = gateway.options().contains("clock").then(SystemTime::now);
    let result = build(gateway).await?;
    Ok(match answered.and_then(|time| time.duration_since(UNIX_EPOCH).ok()) {
        Some(time) => result.with_metadata("frontend.first-answer", time.as_nanos().to_string()),
        None => result,
    })
}
