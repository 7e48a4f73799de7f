//! Builds that the daemon remembers: listing them, reading their logs and traces, following one from elsewhere.

use std::collections::BTreeMap;
use std::time::SystemTime;

use base64::Engine as _;
use buildkit_proto::content::ReadContentRequest;
use buildkit_proto::content::content_client::ContentClient;
use buildkit_proto::control::{
    self, BuildHistoryEventType, BuildHistoryRequest, StatusRequest, StatusResponse,
    UpdateBuildHistoryRequest,
};
use bytes::{Buf as _, BytesMut};
use prost::Message as _;
use tonic::Code;

use crate::client::{Client, Control, Follow};
use crate::error::{Error, SolveError};
use crate::progress::{Progress, Reporter, SolveStatus, time};
use crate::solve::{Descriptor, Solved};

/// Larger updates are not read from a stored log.
const MAX_UPDATE: usize = 64 << 20;
/// Larger errors are not read: they carry source files.
const MAX_ERROR: usize = 64 << 20;
/// Larger traces are not read.
const MAX_TRACE: usize = 256 << 20;

/// A build that the daemon remembers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HistoryRecord {
    /// Id of the build.
    pub reference: String,
    /// Frontend that built it; empty for a plain graph.
    pub frontend: String,
    /// Options of the frontend.
    pub options: BTreeMap<String, String>,
    /// When it started.
    pub created: Option<SystemTime>,
    /// When it ended, if it did.
    pub completed: Option<SystemTime>,
    /// Why it failed, if it did.
    pub error: Option<HistoryError>,
    /// Exporters of the build: their types and attributes.
    pub exporters: Vec<(String, BTreeMap<String, String>)>,
    /// What each exporter made, by its place in `exporters`; those of a build for several platforms are together.
    pub results: Vec<(usize, Descriptor)>,
    /// What the exporters answered. Daemons store little of it: [`History::result`] makes up for what is in `results`.
    pub response: BTreeMap<String, String>,
    /// Digest of the stored log.
    pub logs: Option<String>,
    /// Digest of the stored trace.
    pub trace: Option<String>,
    /// Digest of the stored error with all its details.
    pub external_error: Option<String>,
    /// Attestations of the result, such as its provenance; [`History::blob`] reads them.
    pub attestations: Vec<Descriptor>,
    /// Whether it is kept for good.
    pub pinned: bool,
    /// Steps whose result came from the cache.
    pub cached_steps: i32,
    /// Steps that are done.
    pub completed_steps: i32,
    /// Steps in all.
    pub total_steps: i32,
    /// Warnings.
    pub warnings: i32,
}

impl HistoryRecord {
    /// The response as the build's own client got it, as far as the record tells: digest, descriptor and names of the
    /// first image.
    fn completed_response(&self) -> BTreeMap<String, String> {
        let mut response = self.response.clone();
        let Some((exporter, descriptor)) = self.results.first() else { return response };
        let mut add = |key: &str, value: String| {
            response.entry(key.to_owned()).or_insert(value);
        };
        add("containerimage.digest", descriptor.digest.clone());
        if let Ok(json) = serde_json::to_vec(descriptor) {
            add("containerimage.descriptor", base64::engine::general_purpose::STANDARD.encode(json));
        }
        if let Some(name) = self.exporters.get(*exporter).and_then(|(_, attrs)| attrs.get("name")) {
            add("image.name", name.clone());
        }
        response
    }
}

/// Why a remembered build failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryError {
    /// Code of gRPC, as a number.
    pub code: i32,
    /// The daemon's text, without credentials.
    pub message: String,
}

impl From<control::BuildHistoryRecord> for HistoryRecord {
    fn from(record: control::BuildHistoryRecord) -> Self {
        let digest = |descriptor: Option<control::Descriptor>| descriptor.map(|held| held.digest);
        let error = record.error.filter(|error| error.code != 0);
        let infos = || record.result.iter().chain(record.results.values());
        let results = infos().flat_map(|info| {
            let first =
                info.result_deprecated.iter().filter(|_| info.results.is_empty()).map(|held| (0, held));
            let others =
                info.results.iter().filter_map(|(at, held)| Some((usize::try_from(*at).ok()?, held)));
            first.chain(others).map(|(at, held)| (at, Descriptor::from(held.clone())))
        });
        let results = results.collect();
        let attestations = infos().flat_map(|result| &result.attestations).cloned().map(Descriptor::from);
        let mut attestations: Vec<_> = attestations.collect();
        attestations.sort_by(|a, b| a.digest.cmp(&b.digest));
        attestations.dedup();
        Self {
            reference: record.r#ref,
            frontend: record.frontend,
            options: record.frontend_attrs,
            created: record.created_at.and_then(time),
            completed: record.completed_at.and_then(time),
            error: error.map(|error| HistoryError {
                code: error.code,
                message: crate::redact::text(&error.message).into_owned(),
            }),
            exporters: record
                .exporters
                .into_iter()
                .map(|exporter| (exporter.r#type, exporter.attrs))
                .collect(),
            results,
            response: record.exporter_response,
            logs: digest(record.logs),
            trace: digest(record.trace),
            external_error: digest(record.external_error),
            attestations,
            pinned: record.pinned,
            cached_steps: record.num_cached_steps,
            completed_steps: record.num_completed_steps,
            total_steps: record.num_total_steps,
            warnings: record.num_warnings,
        }
    }
}

/// Something that happened to a build.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum HistoryEvent {
    /// It started, or was running when listening began.
    Started(HistoryRecord),
    /// It ended, or is a stored one.
    Complete(HistoryRecord),
    /// It was removed.
    Deleted(HistoryRecord),
}

/// Which builds to list.
///
/// A filter is a list of terms that must all hold, separated by commas: `status==error`, `repository==URL`,
/// `startedAt>24h` (within the last 24 hours), `duration>=10s`, `ref~=^abc`. Of several filters one must hold. They
/// select among stored builds; running ones are always reported.
///
/// The BuildKit in Docker Engine 28.5 crashes when a filter or a limit meets a build that is being removed from the
/// history: there, list all and select here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct HistoryQuery {
    request: BuildHistoryRequest,
}

impl HistoryQuery {
    /// All builds.
    pub fn new() -> Self {
        Self::default()
    }

    /// Only this build.
    pub fn reference(mut self, reference: impl Into<String>) -> Self {
        self.request.r#ref = reference.into();
        self
    }

    /// Only running builds.
    pub fn running(mut self) -> Self {
        self.request.active_only = true;
        self
    }

    /// Only stored builds that this filter selects, or another one.
    pub fn filter(mut self, filter: impl Into<String>) -> Self {
        self.request.filter.push(filter.into());
        self
    }

    /// At most this many stored builds, the newest first; 0 is all.
    pub fn limit(mut self, limit: u32) -> Self {
        self.request.limit = i32::try_from(limit).unwrap_or(i32::MAX);
        self
    }
}

/// Events of builds as they happen.
#[must_use = "events come while it is read"]
pub struct Monitor {
    stream: Follow<control::BuildHistoryEvent>,
}

impl Monitor {
    /// The next event; `None` when the daemon ends the stream. Cancel-safe.
    ///
    /// # Errors
    /// When the daemon refuses, or is lost.
    pub async fn next(&mut self) -> Result<Option<HistoryEvent>, Error> {
        while let Some(event) = self.stream.next().await? {
            let kind = BuildHistoryEventType::try_from(event.r#type);
            if let (Ok(kind), Some(record)) = (kind, event.record) {
                let record = HistoryRecord::from(record);
                return Ok(Some(match kind {
                    BuildHistoryEventType::Started => HistoryEvent::Started(record),
                    BuildHistoryEventType::Complete => HistoryEvent::Complete(record),
                    BuildHistoryEventType::Deleted => HistoryEvent::Deleted(record),
                }));
            }
        }
        Ok(None)
    }
}

impl std::fmt::Debug for Monitor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Monitor").finish_non_exhaustive()
    }
}

/// The daemon's memory of builds, from [`Client::history`].
#[derive(Clone, Debug)]
pub struct History {
    client: Client,
}

impl Client {
    /// Builds that the daemon remembers. Needs BuildKit 0.11.
    pub fn history(&self) -> History {
        History { client: self.clone() }
    }

    /// Follows a build that was started elsewhere, or was left with `Build::detach`, to its end, and gives the result
    /// that its own client gets. Its progress so far is shown again. Needs BuildKit 0.11.
    ///
    /// ```no_run
    /// # async fn f(client: buildkit_client::Client, graph: buildkit_llb::State) -> Result<(), buildkit_client::Error> {
    /// use buildkit_client::progress;
    /// let build = client.solve(graph).start();
    /// let reference = build.reference();
    /// // in another process, at any time
    /// let solved = client.attach(&reference, progress::plain()).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// That of the build when it failed; when the daemon does not know the build, or is lost.
    pub async fn attach(&self, reference: &str, progress: impl Into<Progress>) -> Result<Solved, Error> {
        let history = self.history();
        let mut monitor = history.monitor(HistoryQuery::new().reference(reference)).await?;
        let reporter = progress.into().start();
        let request = StatusRequest { r#ref: reference.to_owned() };
        let follow = async {
            let call = |mut control: Control| async move { control.status(request).await };
            let result = async {
                let mut status = self.follow("Control.Status", call).await?;
                while let Some(update) = status.next().await? {
                    reporter.status(update);
                }
                Ok::<_, Error>(())
            };
            if let Err(error) = result.await {
                reporter.incomplete(error.report());
            }
        };
        let end = async {
            while let Some(event) = monitor.next().await? {
                match event {
                    HistoryEvent::Started(_) => {}
                    HistoryEvent::Complete(record) | HistoryEvent::Deleted(record) => return Ok(record),
                }
            }
            Err(unknown(reference))
        };
        // The end decides; what is missing of the progress gets a moment to arrive.
        let (mut follow, mut end) = (Box::pin(follow), Box::pin(end));
        let record = tokio::select! {
            record = &mut end => {
                let _ = tokio::time::timeout(std::time::Duration::from_secs(2), &mut follow).await;
                record
            }
            () = &mut follow => match tokio::time::timeout(std::time::Duration::from_secs(2), &mut end).await {
                Ok(record) => record,
                // A daemon waits for ever for news of a build that it has never heard of.
                Err(_) => match history.find(reference).await? {
                    Some(record) if record.completed.is_some() => Ok(record),
                    Some(_) => end.await,
                    None => Err(unknown(reference)),
                },
            },
        };
        reporter.finish().await;
        Box::pin(history.result_with(&record?, &reporter)).await
    }
}

impl History {
    /// The builds that a query selects, those that run included.
    ///
    /// # Errors
    /// When a filter is not understood, the daemon is older than 0.11, or cannot be reached.
    pub async fn list(&self, query: HistoryQuery) -> Result<Vec<HistoryRecord>, Error> {
        let mut events = self.listen(BuildHistoryRequest { early_exit: true, ..query.request }).await?;
        let mut records = Vec::new();
        while let Some(event) = events.next().await? {
            match event {
                HistoryEvent::Started(record) | HistoryEvent::Complete(record) => records.push(record),
                HistoryEvent::Deleted(_) => {}
            }
        }
        Ok(records)
    }

    /// One build; `None` when the daemon does not know it.
    ///
    /// # Errors
    /// As [`History::list`].
    pub async fn find(&self, reference: &str) -> Result<Option<HistoryRecord>, Error> {
        match self.list(HistoryQuery::new().reference(reference)).await {
            Ok(mut records) => Ok(records.pop()),
            // It is being removed.
            Err(Error::Rpc(error)) if error.message().contains("is deleted") => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What a query selects, and then what happens to builds, until it is dropped.
    ///
    /// # Errors
    /// As [`History::list`].
    pub async fn monitor(&self, query: HistoryQuery) -> Result<Monitor, Error> {
        self.listen(query.request).await
    }

    /// The stored progress of a build, update by update; nothing when none is stored.
    ///
    /// # Errors
    /// When it cannot be read, or is not a log.
    pub async fn logs(&self, record: &HistoryRecord, mut each: impl FnMut(SolveStatus)) -> Result<(), Error> {
        let Some(digest) = &record.logs else { return Ok(()) };
        let mut held = BytesMut::new();
        self.read(digest, |data| {
            held.extend_from_slice(data);
            while let Some(length) = held.first_chunk::<4>().map(|bytes| u32::from_le_bytes(*bytes) as usize)
            {
                if length > MAX_UPDATE {
                    return Err(broken("the stored log holds an update that is too large"));
                }
                if held.len() < 4 + length {
                    break;
                }
                held.advance(4);
                let update = StatusResponse::decode(held.split_to(length).freeze());
                each(update.map_err(|_| broken("the stored log cannot be understood"))?.into());
            }
            Ok(())
        })
        .await?;
        if held.is_empty() { Ok(()) } else { Err(broken("the stored log ends too early")) }
    }

    /// How a build ended: the result that its own client got, or its error with vertex, exit code and place.
    ///
    /// # Errors
    /// That of the build when it failed; when it still runs, or its stored error cannot be read.
    pub async fn result(&self, record: &HistoryRecord) -> Result<Solved, Error> {
        self.result_with(record, &Progress::none().start()).await
    }

    async fn result_with(&self, record: &HistoryRecord, seen: &Reporter) -> Result<Solved, Error> {
        let reference = &record.reference;
        let (Some(created), Some(completed)) = (record.created, record.completed) else {
            let running = tonic::Status::failed_precondition(format!("the build {reference} still runs"));
            return Err(Error::rpc("Control.ListenBuildHistory", &running));
        };
        let Some(error) = &record.error else {
            return Ok(Solved {
                reference: reference.clone(),
                response: record.completed_response(),
                warnings: seen.warnings(),
                attempts: 1,
                ..Solved::default()
            });
        };
        // The record holds code and text; the details are stored apart, since BuildKit 0.12.
        let details = match &record.external_error {
            Some(digest) => self.blob(digest, MAX_ERROR).await?,
            None => Vec::new(),
        };
        let status = tonic::Status::with_details(Code::from_i32(error.code), &error.message, details.into());
        if status.code() == Code::Cancelled {
            return Err(Error::Canceled);
        }
        let error =
            SolveError::new(reference, completed.duration_since(created).unwrap_or_default(), &status);
        let (name, logs) = match error.vertex() {
            Some(vertex) => (seen.vertex_name(vertex), seen.last_logs(vertex)),
            None => (None, Vec::new()),
        };
        Err(Error::Solve(Box::new(error.with_vertex(name, logs))))
    }

    /// The stored trace of a build: JSON of OpenTelemetry, one document after another; `None` when none is stored.
    ///
    /// # Errors
    /// When it cannot be read, or is larger than 256 MiB.
    pub async fn trace(&self, record: &HistoryRecord) -> Result<Option<Vec<u8>>, Error> {
        match &record.trace {
            Some(digest) => self.blob(digest, MAX_TRACE).await.map(Some),
            None => Ok(None),
        }
    }

    /// Something that the daemon stores, by its digest: an attestation of a build, for example.
    ///
    /// # Errors
    /// When it cannot be read, or is larger than `limit` bytes.
    pub async fn blob(&self, digest: &str, limit: usize) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        self.read(digest, |data| {
            if bytes.len() + data.len() > limit {
                return Err(broken("what is stored is larger than asked for"));
            }
            bytes.extend_from_slice(data);
            Ok(())
        })
        .await?;
        Ok(bytes)
    }

    /// Removes a build and its log.
    ///
    /// # Errors
    /// When the daemon does not know it, or cannot be reached.
    pub async fn delete(&self, reference: &str) -> Result<(), Error> {
        self.update(UpdateBuildHistoryRequest { delete: true, ..named(reference) }).await
    }

    /// Keeps a build for good, or no longer.
    ///
    /// # Errors
    /// As [`History::delete`].
    pub async fn pin(&self, reference: &str, pinned: bool) -> Result<(), Error> {
        self.update(UpdateBuildHistoryRequest { pinned, ..named(reference) }).await
    }

    /// Waits until the trace of a build is stored.
    ///
    /// # Errors
    /// As [`History::delete`].
    pub async fn finalize(&self, reference: &str) -> Result<(), Error> {
        self.update(UpdateBuildHistoryRequest { finalize: true, ..named(reference) }).await
    }

    async fn update(&self, request: UpdateBuildHistoryRequest) -> Result<(), Error> {
        let call = |mut control: Control| async move { control.update_build_history(request).await };
        self.client.call("Control.UpdateBuildHistory", call).await.map(drop)
    }

    async fn listen(&self, request: BuildHistoryRequest) -> Result<Monitor, Error> {
        let call = |mut control: Control| async move { control.listen_build_history(request).await };
        Ok(Monitor { stream: self.client.follow("Control.ListenBuildHistory", call).await? })
    }

    async fn read(
        &self,
        digest: &str,
        mut each: impl FnMut(&[u8]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let link = self.client.link().await?;
        let mut content = ContentClient::new(link.channel()).max_decoding_message_size(MAX_UPDATE);
        let request = ReadContentRequest { digest: digest.to_owned(), offset: 0, size: 0 };
        let failed = |status: tonic::Status| Error::rpc("Content.Read", &status);
        let mut stream = content.read(request).await.map_err(failed)?.into_inner();
        while let Some(chunk) = stream.message().await.map_err(failed)? {
            each(&chunk.data)?;
        }
        Ok(())
    }
}

fn unknown(reference: &str) -> Error {
    let status = tonic::Status::not_found(format!("no build {reference} is known"));
    Error::rpc("Control.ListenBuildHistory", &status)
}

fn named(reference: &str) -> UpdateBuildHistoryRequest {
    UpdateBuildHistoryRequest { r#ref: reference.to_owned(), ..UpdateBuildHistoryRequest::default() }
}

fn broken(text: &str) -> Error {
    Error::rpc("Content.Read", &tonic::Status::new(Code::DataLoss, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_says_how_the_build_ended_without_credentials() {
        let status = |code, message: &str| buildkit_proto::rpc::Status {
            code,
            message: message.into(),
            ..buildkit_proto::rpc::Status::default()
        };
        let record = |error| {
            HistoryRecord::from(control::BuildHistoryRecord {
                error,
                ..control::BuildHistoryRecord::default()
            })
        };
        assert_eq!(record(None).error, None);
        assert_eq!(record(Some(status(0, ""))).error, None);
        let error = record(Some(status(2, "fetch https://ann:canary@host/x failed"))).error.unwrap();
        assert_eq!((error.code, error.message.as_str()), (2, "fetch https://***@host/x failed"));
    }

    #[test]
    fn a_query_is_what_the_daemon_is_asked() {
        let query = HistoryQuery::new().filter("status==error").limit(3).running().reference("r");
        assert_eq!(
            query.request,
            BuildHistoryRequest {
                active_only: true,
                r#ref: "r".into(),
                early_exit: false,
                filter: vec!["status==error".into()],
                limit: 3
            }
        );
    }
}
