//! One build from its request to its result: the call, the session, the progress and the link,
//! all watched at once.

use super::{Plan, Solved, features, stores};
use crate::client::{Client, REASON, broke_off, control};
use crate::connect::{Channel, Link, LinkEnd, is_transport};
use crate::error::{Error, LocalError, RequestError, SolveError, SolveErrorKind, Unsupported};
use crate::export::{Export, Target};
use crate::output::Outputs;
use crate::progress::Reporter;
use crate::request::{Prepared, Request, new_id};
use crate::session::filesync::Locals;
use crate::session::member::{Member, Offer};
use crate::session::upload::Upload;
use crate::session::{self, Session, SessionContext, SessionEnd};
use buildkit_proto::control::control_client::ControlClient;
use buildkit_proto::control::{SolveResponse, StatusRequest};
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};
use tracing::Instrument as _;

/// How long a build may go on after the daemon has ended its session: it may need nothing more.
const WITHOUT_SESSION: Duration = Duration::from_secs(10);
/// How much of a Dockerfile is looked through for the registries it names.
const MAX_DOCKERFILE: usize = 4 * 1024 * 1024;
/// Largest status message: one that is larger ends the progress, not the build.
const MAX_STATUS: usize = 64 * 1024 * 1024;

/// Runs a build, again if need be.
pub(super) async fn run(
    mut solve: Plan,
    reporter: Reporter,
    cancel: CancellationToken,
) -> Result<Solved, Error> {
    let result = match load(&mut solve).await {
        Ok(()) => attempts(&solve, &reporter, &cancel).await,
        Err(error) => Err(error.into()),
    };
    reporter.finish().await;
    result
}

/// Finds what is missing before anything is sent.
async fn load(solve: &mut Plan) -> Result<(), RequestError> {
    if let Some(session) = &solve.session {
        session.check(&solve.client, &solve.attached, solve.request.shared_key.is_some())?;
    }
    solve.attached.load().await
}

/// Whether a second run would do all that the first one did.
fn is_repeatable(solve: &Plan) -> bool {
    let Request { exports, uploads, .. } = &solve.request;
    // On a shared session, what was given up may still ask for what the next one has.
    let alone = || uploads.is_empty() && exports.iter().all(|export| matches!(export.target, Target::None));
    solve.request.reference.is_none()
        && exports.iter().any(Export::pushes)
        && exports.iter().all(Export::is_repeatable)
        && uploads.values().all(Upload::is_repeatable)
        && solve.chooser.is_none()
        && (solve.session.is_none() || alone())
}

async fn attempts(solve: &Plan, reporter: &Reporter, cancel: &CancellationToken) -> Result<Solved, Error> {
    let repeatable = is_repeatable(solve);
    let mut delays = solve.retry.delays();
    let mut attempts = 1;
    loop {
        let reference = solve.running();
        let endpoint = solve.client.endpoint();
        let span = tracing::info_span!("buildkit.solve", %endpoint, %reference, attempt = attempts);
        let error = match Box::pin(attempt(solve, reference, reporter, cancel)).instrument(span).await {
            Ok(solved) => return Ok(Solved { attempts, ..solved }),
            Err(error) => error,
        };
        let delay = delays.next().filter(|_| repeatable && error.may_have_run() && error.is_transient());
        let Some(delay) = delay else { return Err(error) };
        tracing::warn!(error = %error.report(), ?delay, "the build failed for a passing reason and is repeated");
        tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(Error::Canceled),
            () = tokio::time::sleep(delay) => attempts += 1,
        }
        solve.run_anew();
    }
}

async fn attempt(
    solve: &Plan,
    reference: String,
    reporter: &Reporter,
    cancel: &CancellationToken,
) -> Result<Solved, Error> {
    solve.validate()?;
    let started = Instant::now();
    let client = &solve.client;
    let shared = solve.session.as_ref();
    let context = shared.map_or_else(|| SessionContext::new(new_id()), |session| session.context().clone());
    let layouts = stores::open(&solve.request, shared.map_or(&BTreeMap::new(), Session::oci_layouts)).await?;
    let prepared = solve.request.prepare(&reference, &context, &layouts.cache_from)?;
    let outputs = Outputs::open(&solve.request.exports).await?;
    let _abandoned = outputs.abandoned_on_drop();
    let Prepared { mut message, shared_key, locals, registries } = prepared;
    let locals = Locals::open(locals).await?;
    message.frontend_attrs.extend(layouts.options.clone());
    solve.request.give_layout_as_context(&mut message, &context)?;
    message.enable_session_exporter = solve.chooser.is_some();
    if solve.attached.verifier.is_some() || shared.is_some_and(Session::verifies) {
        context.id().clone_into(&mut message.source_policy_session);
    }
    tokio::select! {
        biased;
        () = cancel.cancelled() => return Err(Error::Canceled),
        checked = features::check(client, &message, solve.request.compatibility_version > 0) => checked?,
    }

    let _closing = shared.is_none().then(|| context.closed().clone().drop_guard());
    let build = context.join(Offer {
        locals,
        stores: layouts.stores.clone(),
        uploads: solve.request.uploads.clone(),
        outputs: outputs.clone(),
        chooser: solve.chooser.clone().map(|chooser| (chooser, message.exporters.len())),
        scope: registries,
        progress: Some(reporter.clone()),
    })?;
    if solve.request.registries.is_none()
        && let Some((tree, path)) = solve.request.start_file(&context)
    {
        let mut hosts = BTreeSet::new();
        session::hosts_in(&session::filesync::text(tree, path, MAX_DOCKERFILE).await, &mut hosts);
        build.name_registries(hosts);
    }
    if client.is_exposed() && (solve.attached.is_secret() || shared.is_some_and(Session::is_secret)) {
        let endpoint = client.endpoint();
        tracing::warn!(endpoint, "secrets and credentials are offered without encryption");
        let what = "is not encrypted: what this build offers can be read on the way";
        reporter.step(format!("[security] {endpoint} {what}")).done();
    }
    for missing in &layouts.missing {
        reporter.step(missing.clone()).done();
    }

    let link = tokio::select! {
        biased;
        () = cancel.cancelled() => return Err(Error::Canceled),
        // A daemon takes PINGs amiss where there is no session.
        link = client.dial(shared.is_none()) => link?,
    };
    let channel = match solve.trace.clone() {
        Some(trace) => link.channel().with_headers(move |headers| trace.inject(headers)),
        None => link.channel(),
    };
    let carrier = if let Some(session) = shared {
        Carrier::Shared(session)
    } else {
        let services = solve.attached.services(&context, Some(&build));
        Carrier::Own(Task::spawn(session::open(channel.clone(), &shared_key, services, context.clone())?))
    };
    let status_over = CancellationToken::new();
    let mut running = Running {
        client,
        link: &link,
        reference: &reference,
        started,
        context: &context,
        build: &build,
        reporter,
        carrier,
        status: Task::spawn({
            let follow = follow(channel.clone(), reference.clone(), reporter.clone());
            let over = status_over.clone();
            async move {
                follow.await;
                over.cancel();
            }
        }),
        status_over,
    };
    tracing::debug!(reference, session = context.id(), "build sent");
    let function = match (&solve.function, &solve.look) {
        (None, Some(look)) => Some(look.take_over(&mut message)),
        (function, _) => function.clone(),
    };
    let mut function = function.map(|function| {
        let options = message.frontend_attrs.clone();
        let (id, build) = (context.id().to_owned(), Arc::clone(build.member()));
        Task::spawn(function.drive(channel.clone(), reference.clone(), id, build, options))
    });
    let answer = async {
        let mut call = control(channel);
        let mut call = std::pin::pin!(call.solve(message));
        let Some(function) = &mut function else { return call.await };
        tokio::select! {
            biased;
            answer = &mut call => return answer,
            ended = &mut function.0 => if let Ok(Err(status)) = ended {
                // The daemon waits for a result that will not come, unless it failed by itself.
                return tokio::time::timeout(REASON, call).await.unwrap_or(Err(status));
            },
        }
        call.await
    };
    let result = running.watch(answer, cancel).await;
    // A function that the build is over for has ended when its caller hears of it.
    if let Some(function) = &mut function {
        function.stop(client.liveness().drain).await;
    }
    if result.is_ok() {
        outputs.settle(client.liveness().drain).await;
    }
    running.close().await;
    let result = match result {
        Ok(response) => {
            let response: BTreeMap<_, _> = response.exporter_response.into_iter().collect();
            match finish(solve, &outputs, &layouts, &response).await {
                Ok(()) => Ok(response),
                // Why nothing has arrived is known on this side, where it failed here.
                Err(error) => Err(build.take_failures().into_iter().next().map_or(error, Error::from)),
            }
        }
        Err(error) => Err(error),
    };
    let (refused_count, refused) = build.suspicions();
    if refused_count > 0 {
        tracing::warn!(refused_count, "the daemon asked for things that the build did not offer");
    }
    let response = result?;
    Ok(Solved {
        reference,
        response,
        warnings: reporter.warnings(),
        cache_metrics: reporter.cache_metrics(),
        refused,
        attempts: 1,
        exports: outputs.metadata(),
    })
}

/// Gives everything that was written its final name.
async fn finish(
    solve: &Plan,
    outputs: &Outputs,
    layouts: &stores::Opened,
    response: &BTreeMap<String, String>,
) -> Result<(), Error> {
    outputs.commit().await?;
    layouts.commit(&solve.request, response).await?;
    Ok(())
}

/// A task that ends when its handle is dropped.
struct Task<T>(JoinHandle<T>);

impl<T: Send + 'static> Task<T> {
    fn spawn(task: impl Future<Output = T> + Send + 'static) -> Self {
        Self(tokio::spawn(task.in_current_span()))
    }

    /// Waits for it, at most for `limit`.
    async fn end(&mut self, limit: Duration) {
        if !self.0.is_finished() && tokio::time::timeout(limit, &mut self.0).await.is_err() {
            self.0.abort();
        }
    }

    /// Ends it, and waits until what it held is dropped: at most for `limit`, as it may be busy.
    async fn stop(&mut self, limit: Duration) {
        if !self.0.is_finished() {
            self.0.abort();
            let _ = tokio::time::timeout(limit, &mut self.0).await;
        }
    }
}

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A build that was sent.
struct Running<'a> {
    client: &'a Client,
    link: &'a Link,
    reference: &'a str,
    started: Instant,
    context: &'a SessionContext,
    build: &'a Member,
    reporter: &'a Reporter,
    carrier: Carrier<'a>,
    status: Task<()>,
    /// Is cancelled when no more progress will come.
    status_over: CancellationToken,
}

/// The session of a build.
enum Carrier<'a> {
    /// On the build's own link.
    Own(Task<SessionEnd>),
    /// On a link of its own.
    Shared(&'a Session),
}

impl Carrier<'_> {
    /// Waits until it is over, and says why.
    async fn ended(&mut self) -> String {
        match self {
            Self::Own(task) => (&mut task.0).await.unwrap_or(SessionEnd::Closed).reason(),
            Self::Shared(session) => {
                format!("the session that it shares is over: {}", session.ended().await)
            }
        }
    }
}

impl Running<'_> {
    /// Waits for the answer, and for everything that may keep it from coming.
    async fn watch(
        &mut self,
        answer: impl Future<Output = Result<tonic::Response<SolveResponse>, Status>>,
        cancel: &CancellationToken,
    ) -> Result<SolveResponse, Error> {
        let liveness = self.client.liveness();
        let mut answer = std::pin::pin!(answer);
        let mut hello = std::pin::pin!(self.client.introduce(self.link));
        let mut greeted = false;
        let mut cut_off = Box::pin(self.client.cut_off(self.link));
        let forgotten = forgotten(self.client, self.link, self.reference, self.status_over.clone());
        let mut forgotten = Box::pin(forgotten);
        let build = self.build;
        let mut failed_here = std::pin::pin!(build.failed_for(liveness.dead_after));
        // A shared session sees to its health itself.
        let own = matches!(self.carrier, Carrier::Own(_));
        let mut session_ended: Option<String> = None;
        let mut session_deadline = std::pin::pin!(tokio::time::sleep(Duration::ZERO));
        loop {
            tokio::select! {
                biased;
                answer = &mut answer => return match answer {
                    Ok(response) => {
                        self.build.answered();
                        Ok(response.into_inner())
                    }
                    Err(status) if cancel.is_cancelled() && status.code() == Code::Cancelled => Err(Error::Canceled),
                    Err(status) => {
                        // An error may be about what the daemon lacks: then who it is matters.
                        if !greeted && !is_transport(&status) {
                            let _ = tokio::time::timeout(REASON, &mut hello).await;
                        }
                        Err(self.failed(status, session_ended).await)
                    }
                },
                () = cancel.cancelled() => return Err(Error::Canceled),
                // The daemon says who it is while the build is on its way.
                known = &mut hello, if !greeted => match known {
                    Err(error @ Error::LinkLost(_)) => return Err(self.local_cause(error)),
                    // It may build without saying who it is.
                    _ => greeted = true,
                },
                end = &mut cut_off => return Err(self.lost(end)),
                () = &mut forgotten => {
                    let reason = "the daemon does not know the build any more, and no answer has come";
                    return Err(self.lost(reason.to_owned()));
                }
                () = &mut failed_here => {
                    let reason = "the daemon does not end the build, of which an export has failed";
                    let local = build.take_failures().into_iter().next();
                    return Err(local.map_or_else(|| self.lost(reason.to_owned()), Error::from));
                }
                () = self.context.health_lost(liveness.health_silence()), if own => {
                    let limit = liveness.health_silence().as_secs_f32();
                    return Err(self.lost(format!("no health check of the session for {limit} s")));
                }
                reason = self.carrier.ended(), if session_ended.is_none() => {
                    session_deadline.set(tokio::time::sleep(WITHOUT_SESSION));
                    tracing::debug!(reason, "session ended before the build");
                    session_ended = Some(reason);
                }
                () = &mut session_deadline, if session_ended.is_some() => {
                    return Err(self.lost(session_ended.unwrap_or_default()));
                }
            }
        }
    }

    /// Ends session and progress, in bounded time.
    async fn close(&mut self) {
        let drain = self.client.liveness().drain;
        let status = self.status.end(drain);
        match &mut self.carrier {
            Carrier::Own(session) => {
                self.context.closed().cancel();
                tokio::join!(session.end(drain), status);
            }
            Carrier::Shared(_) => status.await,
        }
    }

    fn lost(&self, why: impl Into<LinkEnd>) -> Error {
        let mut error = self.link.lost("Control.Solve", self.started, why);
        error.reference = Some(self.reference.to_owned());
        error.running = self.reporter.running();
        self.local_cause(error.into())
    }

    /// A failure on this side explains whatever came of it; on a shared session it may be that of another build.
    fn local_cause(&self, error: Error) -> Error {
        if matches!(self.carrier, Carrier::Shared(_)) {
            return error;
        }
        match self.build.take_failures().into_iter().next() {
            Some(local) => local.into(),
            None => error,
        }
    }

    async fn failed(&mut self, status: Status, session_ended: Option<String>) -> Error {
        if is_transport(&status) {
            return self.lost(broke_off(self.link, &status).await);
        }
        self.build.answered();
        // The last words of the failed step are still on their way.
        self.status.end(self.client.liveness().drain).await;
        let error = SolveError::new(self.reference, self.started.elapsed(), &status);
        let vertex = error.vertex().map(str::to_owned);
        let error = error.with_vertex(
            vertex.as_deref().and_then(|vertex| self.reporter.vertex_name(vertex)),
            vertex.as_deref().map(|vertex| self.reporter.last_logs(vertex)).unwrap_or_default(),
        );
        let error = match error.kind() {
            SolveErrorKind::Auth | SolveErrorKind::Registry | SolveErrorKind::Push => {
                let hints = self.build.hints(&error);
                error.with_others(hints)
            }
            _ => error,
        };
        let shared = matches!(self.carrier, Carrier::Shared(_));
        let failures = self.build.take_failures().into_iter();
        let mut failures = failures.filter(|failure| !shared || failure.explains(&error));
        if let Some(first) = failures.next() {
            let others: Vec<_> = failures.map(|other| crate::error::report(&other)).collect();
            return first.followed_by(Some(error.with_others(others))).into();
        }
        if error.message().contains("invalid UTF-8")
            && let Some((dir, path)) = self.build.not_utf8()
        {
            let reason = format!("this daemon does not take the file name \"{path}\", which is not UTF-8");
            let local = LocalError::new(format!("cannot send local directory {dir:?}"), reason);
            return local.followed_by(Some(error)).into();
        }
        if let Some(what) = missing(&error) {
            let daemon = self.client.known_daemon().map(|daemon| daemon.to_string());
            return Unsupported { what, daemon, sent: true }.into();
        }
        // Nobody cancelled: a daemon that says so has lost the session under the build.
        if matches!(error.kind(), SolveErrorKind::Session | SolveErrorKind::Canceled) {
            let session_ended = match session_ended {
                None => tokio::time::timeout(REASON, self.carrier.ended()).await.ok(),
                known => known,
            };
            if let Some(reason) = session_ended {
                return self.lost(LinkEnd { reason, source: Some(Arc::new(status)) });
            }
        }
        Error::Solve(Box::new(error))
    }
}

/// What the daemon lacks, where that is what its error says.
fn missing(error: &SolveError) -> Option<String> {
    let text = error.message();
    let quoted = |after: &str| text.split_once(after).and_then(|(_, rest)| rest.split(['"', ' ']).next());
    if let Some(exporter) = quoted("exporter \"").filter(|_| text.contains("could not be found")) {
        return Some(format!("the exporter {exporter:?}"));
    }
    for direction in ["exporter", "importer"] {
        if let Some(kind) = quoted(&format!("unknown cache {direction}: \"")) {
            return Some(format!("the cache {direction} {kind:?}"));
        }
    }
    if let Some(cap) = quoted("unknown API capability ") {
        return Some(format!("the capability {cap}"));
    }
    // Then it is the frontend that lacks something: a newer daemon would not help.
    if error.details().frontend_cap.is_some() || error.details().subrequest.is_some() {
        return None;
    }
    (error.code() == Code::Unimplemented && error.vertex().is_none()).then(|| format!("this build ({text})"))
}

/// Waits until the daemon turns out not to know a build any more that it has not answered: then the request or the answer
/// was lost on a link that is alive, as one spoilt byte can do it. Daemons know a build until they answer, and say of one
/// that they do not know that there is no such job. They are asked only once the progress is over.
async fn forgotten(client: &Client, link: &Link, reference: &str, status_over: CancellationToken) {
    let liveness = client.liveness();
    let pause = liveness.dead_after / 2;
    status_over.cancelled().await;
    loop {
        tokio::time::sleep(pause).await;
        if link.is_closed() {
            // It takes no new calls; it finishes what runs, or the link ends.
            return std::future::pending().await;
        }
        let mut control = ControlClient::new(link.channel()).max_decoding_message_size(MAX_STATUS);
        let known = async {
            let stream = control.status(StatusRequest { r#ref: reference.to_owned() }).await?;
            stream.into_inner().message().await
        };
        match tokio::time::timeout(liveness.first_answer, known).await {
            Ok(Err(status)) if is_unknown(&status) => break,
            _ => {}
        }
    }
    // An answer that is on its way has the same time once more.
    tokio::time::sleep(pause).await;
}

/// Whether this is what a daemon says of a build that it does not know. Old ones have no code for it.
fn is_unknown(status: &Status) -> bool {
    !is_transport(status) && (status.code() == Code::NotFound || status.message().contains("no such job"))
}

/// Reads the progress of a build. Whatever happens to it, the build's own call decides the result.
async fn follow(channel: Channel, reference: String, reporter: Reporter) {
    let mut client = ControlClient::new(channel).max_decoding_message_size(MAX_STATUS);
    let mut stream = match client.status(StatusRequest { r#ref: reference }).await {
        Ok(stream) => stream.into_inner(),
        Err(status) => return reporter.incomplete(status.message()),
    };
    loop {
        match stream.message().await {
            Ok(Some(message)) => reporter.status(message),
            Ok(None) => return,
            Err(status) => return reporter.incomplete(status.message()),
        }
    }
}
