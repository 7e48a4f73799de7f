//! A scripted BuildKit in this process.
//!
//! It speaks the daemon's API over an in-memory stream or a loopback port, calls back into the
//! client's session like the real one, and does exactly what a test tells it:
//!
//! ```
//! use buildkit_proto::control::SolveResponse;
//! use buildkit_tests::fake::FakeBuildKit;
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! let fake = FakeBuildKit::script()
//!     .on_solve(|solve| async move {
//!         let session = solve.session().await?;
//!         let tree = session.pull("context").await?;
//!         assert_eq!(tree.len(), 3);
//!         Ok(SolveResponse::default())
//!     })
//!     .start();
//! let stream = fake.dial(); // give this to the client under test
//! stream.faults().stall_now();
//! # }
//! ```

mod client;
mod control;
mod faulty_io;
mod frames;
mod registry;
mod session;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use buildkit_proto::control::{
    BuildHistoryEvent, BuildHistoryRequest, DiskUsageRequest, DiskUsageResponse, InfoRequest, InfoResponse,
    ListWorkersRequest, ListWorkersResponse, PruneRequest, SolveRequest, SolveResponse, StatusResponse,
    UpdateBuildHistoryRequest, UpdateBuildHistoryResponse, UsageRecord, control_server::ControlServer,
};
use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf, duplex};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::Status;
use tonic::service::RoutesBuilder;
use tonic::transport::server::Connected;

pub use self::client::{Dial, Link};
pub use self::faulty_io::{Fault, Faults, FaultyIo};
pub use self::frames::{Frames, Injector};
pub use self::registry::{Answer, FakeRegistry, Received};
pub use self::session::{Entry, Session, Transfer};

type Hook<A, R> = Arc<dyn Fn(A) -> BoxFuture<'static, Result<R, Status>> + Send + Sync>;

/// Sends the messages of a server-streaming call.
pub type Out<T> = mpsc::Sender<Result<T, Status>>;

/// A BuildKit that is being told what to do; [`Script::start`] starts it.
#[must_use]
pub struct Script {
    hooks: Hooks,
    routes: RoutesBuilder,
    max_header_list_size: Option<u32>,
    session_chunk: usize,
}

struct Hooks {
    solve: Hook<Solve, SolveResponse>,
    status: Hook<(StatusCall, Out<StatusResponse>), ()>,
    info: Hook<InfoRequest, InfoResponse>,
    workers: Hook<ListWorkersRequest, ListWorkersResponse>,
    disk_usage: Hook<DiskUsageRequest, DiskUsageResponse>,
    prune: Hook<(PruneRequest, Out<UsageRecord>), ()>,
    history: Hook<(BuildHistoryRequest, Out<BuildHistoryEvent>), ()>,
    update_history: Hook<UpdateBuildHistoryRequest, UpdateBuildHistoryResponse>,
}

fn hook<A, R, F>(run: impl Fn(A) -> F + Send + Sync + 'static) -> Hook<A, R>
where
    F: Future<Output = Result<R, Status>> + Send + 'static,
{
    Arc::new(move |argument| Box::pin(run(argument)))
}

macro_rules! hooks {
    ($($(#[$doc:meta])* $name:ident => $field:ident($argument:ty) -> $result:ty;)*) => {$(
        $(#[$doc])*
        pub fn $name<F>(mut self, run: impl Fn($argument) -> F + Send + Sync + 'static) -> Self
        where
            F: Future<Output = Result<$result, Status>> + Send + 'static,
        {
            self.hooks.$field = hook(run);
            self
        }
    )*};
}

macro_rules! stream_hooks {
    ($($(#[$doc:meta])* $name:ident => $field:ident($argument:ty) sends $item:ty;)*) => {$(
        $(#[$doc])*
        pub fn $name<F>(mut self, run: impl Fn($argument, Out<$item>) -> F + Send + Sync + 'static) -> Self
        where
            F: Future<Output = Result<(), Status>> + Send + 'static,
        {
            self.hooks.$field = hook(move |(argument, out)| run(argument, out));
            self
        }
    )*};
}

impl Script {
    hooks! {
        /// What Solve does. Default: succeeds at once with an empty response.
        on_solve => solve(Solve) -> SolveResponse;
        /// What Info answers. Default: BuildKit v0.25.0.
        on_info => info(InfoRequest) -> InfoResponse;
        /// What ListWorkers answers. Default: one worker for linux/amd64.
        on_list_workers => workers(ListWorkersRequest) -> ListWorkersResponse;
        /// What DiskUsage answers. Default: nothing is kept.
        on_disk_usage => disk_usage(DiskUsageRequest) -> DiskUsageResponse;
        /// What UpdateBuildHistory does. Default: succeeds.
        on_update_history => update_history(UpdateBuildHistoryRequest) -> UpdateBuildHistoryResponse;
    }

    stream_hooks! {
        /// What Status sends. Default: nothing; it ends when the solve of its ref has ended.
        on_status => status(StatusCall) sends StatusResponse;
        /// What Prune sends. Default: nothing.
        on_prune => prune(PruneRequest) sends UsageRecord;
        /// What ListenBuildHistory sends. Default: nothing.
        on_history => history(BuildHistoryRequest) sends BuildHistoryEvent;
    }

    /// Offers another service beside Control: the gateway, the content store.
    pub fn serve<S>(mut self, service: S) -> Self
    where
        S: tower::Service<
                http::Request<tonic::body::Body>,
                Response = http::Response<tonic::body::Body>,
                Error = std::convert::Infallible,
            > + tonic::server::NamedService
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send + 'static,
    {
        self.routes.add_service(service);
        self
    }

    /// Announces a limit for received header lists, in bytes.
    pub fn max_header_list_size(mut self, limit: u32) -> Self {
        self.max_header_list_size = Some(limit);
        self
    }

    /// Sends the bytes of sessions in messages of at most so many, each followed by an empty one. The real daemon's have
    /// 32 KiB at most.
    pub fn session_chunk(mut self, bytes: usize) -> Self {
        self.session_chunk = bytes.max(1);
        self
    }

    /// Starts it. Must be called within a runtime.
    pub fn start(self) -> FakeBuildKit {
        crate::canary::watch();
        let shared = Arc::new(Shared {
            hooks: self.hooks,
            record: Mutex::default(),
            changed: watch::Sender::new(0),
            stopped: CancellationToken::new(),
            session_chunk: self.session_chunk,
        });
        let mut routes = self.routes;
        routes.add_service(
            ControlServer::new(control::Service(Arc::clone(&shared)))
                .max_decoding_message_size(16 << 20)
                // What is too large is for the client to find out.
                .max_encoding_message_size(usize::MAX),
        );
        let (connections, mut incoming) = mpsc::unbounded_channel::<Connection>();
        let mut server = tonic::transport::Server::builder()
            .initial_connection_window_size(256 << 20)
            .http2_max_header_list_size(self.max_header_list_size.unwrap_or(16 << 20));
        let incoming = futures::stream::poll_fn(move |cx| {
            incoming.poll_recv(cx).map(|c| c.map(Ok::<_, std::io::Error>))
        });
        let serving = server.add_routes(routes.routes()).serve_with_incoming(incoming);
        let stopped = shared.stopped.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = serving => {}
                () = stopped.cancelled() => {}
            }
        });
        let guard = Arc::new(shared.stopped.clone().drop_guard());
        FakeBuildKit { shared, connections, _guard: guard }
    }
}

impl fmt::Debug for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Script")
    }
}

/// A scripted BuildKit that runs; it ends when the last clone is dropped.
#[derive(Clone)]
pub struct FakeBuildKit {
    shared: Arc<Shared>,
    connections: mpsc::UnboundedSender<Connection>,
    _guard: Arc<DropGuard>,
}

impl FakeBuildKit {
    /// A script in which everything has its default.
    pub fn script() -> Script {
        let hooks = Hooks {
            solve: hook(|_| async { Ok(SolveResponse::default()) }),
            status: hook(|(call, _out): (StatusCall, Out<StatusResponse>)| async move {
                call.solve_ended().await;
                Ok(())
            }),
            info: hook(|_| async { Ok(control::version("v0.25.0")) }),
            workers: hook(|_| async { Ok(control::one_worker()) }),
            disk_usage: hook(|_| async { Ok(DiskUsageResponse::default()) }),
            prune: hook(|_| async { Ok(()) }),
            history: hook(|_| async { Ok(()) }),
            update_history: hook(|_| async { Ok(UpdateBuildHistoryResponse::default()) }),
        };
        Script {
            hooks,
            routes: RoutesBuilder::default(),
            max_header_list_size: None,
            session_chunk: 32 * 1024,
        }
    }

    /// Opens a connection in memory. Its [`FaultyIo::faults`] make the link fail.
    pub fn dial(&self) -> FaultyIo<DuplexStream> {
        self.dial_with(Faults::default())
    }

    /// Opens a connection in memory with faults that are already set.
    pub fn dial_with(&self, faults: Faults) -> FaultyIo<DuplexStream> {
        let (near, far) = duplex(64 * 1024);
        let _ = self.connections.send(Connection(Box::new(far)));
        FaultyIo::new(near, faults)
    }

    /// Listens on a loopback port as well.
    ///
    /// # Errors
    /// When no port can be had.
    pub async fn listen(&self) -> std::io::Result<SocketAddr> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let connections = self.connections.clone();
        let stopped = self.shared.stopped.clone();
        tokio::spawn(stopped.run_until_cancelled_owned(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let _ = connections.send(Connection(Box::new(stream)));
            }
        }));
        Ok(address)
    }

    /// The solve requests so far.
    pub fn solves(&self) -> Vec<SolveRequest> {
        self.shared.record().solves.clone()
    }

    /// How many Solve calls are still running; a cancelled one is gone.
    pub fn running_solves(&self) -> usize {
        self.shared.record().running
    }

    /// The sessions that are open, by id.
    pub fn sessions(&self) -> Vec<String> {
        self.shared.record().sessions.keys().cloned().collect()
    }

    /// How many sessions were ever opened.
    pub fn sessions_opened(&self) -> usize {
        self.shared.record().sessions_opened
    }

    /// How many Status calls were made.
    pub fn status_calls(&self) -> usize {
        self.shared.record().status_calls
    }

    /// Waits until something that the record shows is as wanted.
    ///
    /// # Panics
    /// When it is not so after ten seconds of the runtime's clock.
    pub async fn wait_until(&self, wanted: impl Fn(&Self) -> bool) {
        let mut changed = self.shared.changed.subscribe();
        let waiting = async {
            while !wanted(self) {
                let _ = changed.changed().await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(10), waiting).await;
        assert!(waited.is_ok(), "not so after 10 s: {self:?}");
    }
}

impl fmt::Debug for FakeBuildKit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let record = self.shared.record();
        f.debug_struct("FakeBuildKit")
            .field("solves", &record.solves.len())
            .field("running", &record.running)
            .field("sessions", &record.sessions.keys())
            .finish_non_exhaustive()
    }
}

/// A Solve call, as a script sees it.
#[derive(Clone)]
pub struct Solve {
    /// What the client asked for.
    pub request: SolveRequest,
    shared: Arc<Shared>,
}

impl Solve {
    /// The session that the request names, waited for as the real daemon does: 5 seconds.
    ///
    /// # Errors
    /// `NotFound` when it does not come.
    pub async fn session(&self) -> Result<Session, Status> {
        let id = &self.request.session;
        let mut changed = self.shared.changed.subscribe();
        let waiting = async {
            loop {
                if let Some(session) = self.shared.record().sessions.get(id).cloned() {
                    return session;
                }
                let _ = changed.changed().await;
            }
        };
        let found = tokio::time::timeout(Duration::from_secs(5), waiting).await;
        found.map_err(|_| Status::not_found(format!("no active session for {id}: context deadline exceeded")))
    }
}

impl fmt::Debug for Solve {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.request.fmt(f)
    }
}

/// A Status call, as a script sees it.
#[derive(Clone)]
pub struct StatusCall {
    /// The ref of the solve it asks about.
    pub reference: String,
    shared: Arc<Shared>,
}

impl StatusCall {
    /// Waits until the solve of this ref has ended; for ever if it never starts.
    pub async fn solve_ended(&self) {
        let mut changed = self.shared.changed.subscribe();
        while !self.shared.record().ended.contains(&self.reference) {
            if changed.changed().await.is_err() {
                return;
            }
        }
    }
}

impl fmt::Debug for StatusCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("StatusCall").field(&self.reference).finish()
    }
}

struct Shared {
    hooks: Hooks,
    record: Mutex<Record>,
    /// Counts changes of the record.
    changed: watch::Sender<u64>,
    stopped: CancellationToken,
    session_chunk: usize,
}

impl Shared {
    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<R>(&self, change: impl FnOnce(&mut Record) -> R) -> R {
        let result = change(&mut self.record());
        self.changed.send_modify(|count| *count += 1);
        result
    }
}

#[derive(Default)]
struct Record {
    solves: Vec<SolveRequest>,
    running: usize,
    ended: Vec<String>,
    sessions: BTreeMap<String, Session>,
    sessions_opened: usize,
    status_calls: usize,
}

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// The daemon's end of a connection.
struct Connection(Box<dyn Io>);

impl Connected for Connection {
    type ConnectInfo = ();
    fn connect_info(&self) {}
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
