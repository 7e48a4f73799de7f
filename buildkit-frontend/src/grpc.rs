//! The gateway over gRPC, on any connection: stdio of a frontend image, or
//! the caller's connection to a daemon.

use std::collections::BTreeMap;
use std::fmt;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_trait::async_trait;
use buildkit_llb::caps::{ServerCap, ServerCaps};
use buildkit_proto::caps::ApiCap;
use buildkit_proto::checked::Checked;
use buildkit_proto::gateway::exec_message::Input;
use buildkit_proto::gateway::llb_bridge_client::LlbBridgeClient;
use buildkit_proto::{fsutil, gateway, pb};
use bytes::Bytes;
use futures::future::{Either, select};
use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt as _};
use prost::Message as _;
use tonic::Streaming;
use tonic::body::Body;
use tonic::client::GrpcService;
use tonic::codegen::{Body as HttpBody, StdError};
use tonic::metadata::{Ascii, MetadataValue};

use crate::bridge::{Bridge, Environment, Tree, Worker};
use crate::caps::{Caps, gateway as cap, legacy};
use crate::container::{Container, ContainerMount, NewContainer};
use crate::error::{Code, Error, Result};
use crate::output::BuildResult;

/// The largest message either side sends.
const MAX_MESSAGE: usize = 16 << 20;

/// The metadata that routes calls to a build on a daemon's own listener.
const BUILD_ID: &str = "buildkit-controlapi-buildid";

/// How long a process that needs secrets may take to start before the daemon is asked whether it has
/// them, and how much longer each time that it could not say.
const STARTS: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(3), Duration::from_secs(6)];

/// What the schemes of images are called in sources.
const IMAGE: &str = "docker-image://";
const OCI_LAYOUT: &str = "oci-layout://";

/// A connection that the calls of a gateway travel on; any tonic client's
/// will do.
pub trait Transport:
    GrpcService<
        Body,
        ResponseBody: HttpBody<Data = Bytes, Error: Into<StdError> + Send> + Send + 'static,
        Error: Into<StdError>,
        Future: Send,
    > + Clone
    + Send
    + Sync
    + 'static
{
}

impl<T> Transport for T where
    T: GrpcService<
            Body,
            ResponseBody: HttpBody<Data = Bytes, Error: Into<StdError> + Send> + Send + 'static,
            Error: Into<StdError>,
            Future: Send,
        > + Clone
        + Send
        + Sync
        + 'static
{
}

/// A [`Bridge`] to a daemon.
///
/// Daemons that lack a call get the older one that does the same where there
/// is one.
#[derive(Clone)]
pub struct GrpcBridge<T> {
    client: LlbBridgeClient<Checked<T>>,
    build_id: Option<MetadataValue<Ascii>>,
    environment: Environment,
}

impl<T: Transport> GrpcBridge<T> {
    /// Asks the daemon what it can do, and is ready to build.
    ///
    /// `build_id` is the reference of a running build when `transport` leads
    /// to a daemon's listener, and `None` inside a frontend image. Options,
    /// session and product of `environment` are kept; capabilities, and
    /// workers where there are none, come from the daemon.
    ///
    /// # Errors
    /// [`Code::NotFound`] when the daemon does not know the build.
    pub async fn connect(transport: T, build_id: Option<&str>, environment: Environment) -> Result<Self> {
        let build_id = build_id
            .map(|id| {
                MetadataValue::try_from(id).map_err(|_| {
                    Error::with_code(
                        Code::InvalidArgument,
                        format!("{id:?} cannot be the reference of a build"),
                    )
                })
            })
            .transpose()?;
        let client = LlbBridgeClient::new(Checked::new(transport))
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        let mut bridge = Self { client, build_id, environment };
        let pong = bridge
            .client
            .clone()
            .ping(bridge.request(gateway::PingRequest {}))
            .await
            .map_err(|status| Error::context("cannot reach the gateway", Error::from(status)))?
            .into_inner();
        bridge.environment.caps = if pong.frontend_api_caps.is_empty() {
            Caps::enabled(legacy::GATEWAY.iter().copied())
        } else {
            Caps::new(pong.frontend_api_caps)
        };
        bridge.environment.llb_caps = if pong.llb_caps.is_empty() {
            ServerCaps::frozen()
        } else {
            let mut caps = ServerCaps::new();
            for ApiCap {
                id,
                enabled,
                deprecated,
                disabled_reason,
                disabled_reason_msg,
                disabled_alternative,
            } in pong.llb_caps
            {
                let cap = ServerCap {
                    enabled,
                    deprecated,
                    disabled_reason,
                    disabled_reason_message: disabled_reason_msg,
                    disabled_alternative,
                };
                caps.insert(id, cap);
            }
            caps
        };
        if bridge.environment.workers.is_empty() {
            bridge.environment.workers = pong
                .workers
                .into_iter()
                .map(|worker| Worker {
                    id: worker.id,
                    labels: worker.labels,
                    platforms: worker.platforms.into_iter().map(crate::platform::from_wire).collect(),
                })
                .collect();
        }
        Ok(bridge)
    }

    /// Ends the build with its result. To be called once, whatever the result
    /// is: without it the build waits.
    ///
    /// # Errors
    /// When the daemon does not take the result.
    pub async fn finish(&self, result: &Result<BuildResult>) -> Result<()> {
        let request = match result {
            Ok(result) => {
                if result.is_multi_platform() {
                    self.environment.caps.require(cap::RETURN_MAP, &self.environment.product)?;
                }
                if !result.attestations.is_empty() {
                    self.environment.caps.require(cap::ATTESTATIONS, &self.environment.product)?;
                }
                let mut wire = result.to_wire();
                if !self.environment.caps.contains(cap::REF_ARRAY) {
                    wire.result = wire.result.map(old_refs);
                }
                gateway::ReturnRequest { result: Some(wire), error: None }
            }
            Err(error) => gateway::ReturnRequest { result: None, error: Some(bounded(error)) },
        };
        self.client.clone().r#return(self.request(request)).await?;
        Ok(())
    }

    fn request<M>(&self, message: M) -> tonic::Request<M> {
        let mut request = tonic::Request::new(message);
        if let Some(id) = &self.build_id {
            request.metadata_mut().insert(BUILD_ID, id.clone());
        }
        request
    }

    /// Ends when the daemon turns out to lack one of these secrets, and never when it has all of them.
    async fn lacks(&self, secrets: &[String]) {
        if secrets.is_empty() {
            return std::future::pending().await;
        }
        let bridge: Arc<dyn Bridge> = Arc::new(self.clone());
        for wait in STARTS {
            tokio::time::sleep(wait).await;
            // A container with secrets in files is refused at once.
            let empty = NewContainer::without_root().mount(ContainerMount::scratch("/"));
            let asks = secrets.iter().enumerate().fold(empty, |container, (number, id)| {
                container.mount(ContainerMount::secret(format!("/run/secrets/{number}"), id))
            });
            match Container::create(&bridge, asks).await {
                Ok(container) => {
                    let _ = container.release().await;
                    return std::future::pending().await;
                }
                Err(error) if error.is_not_found() => return,
                Err(_) => {}
            }
        }
    }

    /// Daemons before 0.13 resolve images only.
    async fn resolve_image_config(
        &self,
        request: gateway::ResolveSourceMetaRequest,
    ) -> Result<gateway::ResolveSourceMetaResponse> {
        let Some(source) = request.source else {
            return Ok(gateway::ResolveSourceMetaResponse::default());
        };
        let (reference, resolver_type, scheme) =
            if let Some(reference) = source.identifier.strip_prefix(IMAGE) {
                (reference, 0, IMAGE)
            } else if let Some(reference) = source.identifier.strip_prefix(OCI_LAYOUT) {
                (reference, 1, OCI_LAYOUT)
            } else {
                let source = Some(source);
                return Ok(gateway::ResolveSourceMetaResponse { source, ..Default::default() });
            };
        let attr = |name: &str| source.attrs.get(name).cloned().unwrap_or_default();
        let old = gateway::ResolveImageConfigRequest {
            r#ref: reference.into(),
            platform: request.platform,
            resolve_mode: request.resolve_mode,
            log_name: request.log_name,
            resolver_type,
            session_id: attr("oci.session"),
            store_id: attr("oci.store"),
            source_policies: request.source_policies,
        };
        let response = self.client.clone().resolve_image_config(self.request(old)).await?.into_inner();
        let mut source = source;
        if !response.r#ref.is_empty() {
            source.identifier = format!("{scheme}{}", response.r#ref);
        }
        Ok(gateway::ResolveSourceMetaResponse {
            source: Some(source),
            image: Some(gateway::ResolveSourceImageResponse {
                digest: response.digest,
                config: response.config,
                attestation_chain: None,
            }),
            ..Default::default()
        })
    }
}

#[async_trait]
impl<T: Transport> Bridge for GrpcBridge<T> {
    fn environment(&self) -> &Environment {
        &self.environment
    }

    async fn resolve_source(
        &self,
        request: gateway::ResolveSourceMetaRequest,
    ) -> Result<gateway::ResolveSourceMetaResponse> {
        if !self.environment.caps.contains(cap::RESOLVE_SOURCE) {
            return self.resolve_image_config(request).await;
        }
        Ok(self.client.clone().resolve_source_meta(self.request(request)).await?.into_inner())
    }

    async fn solve(&self, request: gateway::SolveRequest) -> Result<gateway::Result> {
        let response = self.client.clone().solve(self.request(request)).await?.into_inner();
        Ok(response.result.unwrap_or_else(|| gateway::Result {
            result: Some(gateway::result::Result::RefDeprecated(response.r#ref)),
            ..Default::default()
        }))
    }

    async fn evaluate(&self, reference: &str) -> Result<()> {
        let request = gateway::EvaluateRequest { r#ref: reference.into() };
        self.client.clone().evaluate(self.request(request)).await?;
        Ok(())
    }

    async fn read_file(
        &self,
        tree: Tree<'_>,
        path: &str,
        range: Option<gateway::FileRange>,
    ) -> Result<Bytes> {
        let (r#ref, mount_index) = address(tree);
        let request =
            self.request(gateway::ReadFileRequest { r#ref, file_path: path.into(), range, mount_index });
        let mut client = self.client.clone();
        let response = match tree {
            Tree::Reference(_) => client.read_file(request).await,
            Tree::Mount { .. } => client.read_file_container(request).await,
        };
        Ok(response?.into_inner().data)
    }

    async fn read_dir(&self, tree: Tree<'_>, path: &str, include: &str) -> Result<Vec<fsutil::Stat>> {
        let (r#ref, mount_index) = address(tree);
        let request = self.request(gateway::ReadDirRequest {
            r#ref,
            dir_path: path.into(),
            include_pattern: include.into(),
            mount_index,
        });
        let mut client = self.client.clone();
        let response = match tree {
            Tree::Reference(_) => client.read_dir(request).await,
            Tree::Mount { .. } => client.read_dir_container(request).await,
        };
        Ok(response?.into_inner().entries)
    }

    async fn stat_file(&self, tree: Tree<'_>, path: &str) -> Result<fsutil::Stat> {
        let (r#ref, mount_index) = address(tree);
        let request = self.request(gateway::StatFileRequest { r#ref, path: path.into(), mount_index });
        let mut client = self.client.clone();
        let response = match tree {
            Tree::Reference(_) => client.stat_file(request).await,
            Tree::Mount { .. } => client.stat_file_container(request).await,
        };
        response?
            .into_inner()
            .stat
            .ok_or_else(|| Error::with_code(Code::Internal, format!("the daemon knows nothing about {path}")))
    }

    async fn inputs(&self) -> Result<BTreeMap<String, pb::Definition>> {
        let request = self.request(gateway::InputsRequest {});
        Ok(self.client.clone().inputs(request).await?.into_inner().definitions)
    }

    async fn warn(&self, request: gateway::WarnRequest) -> Result<()> {
        self.client.clone().warn(self.request(request)).await?;
        Ok(())
    }

    async fn new_container(&self, request: gateway::NewContainerRequest) -> Result<()> {
        self.client.clone().new_container(self.request(request)).await?;
        Ok(())
    }

    async fn release_container(&self, container: &str) -> Result<()> {
        let request = gateway::ReleaseContainerRequest { container_id: container.into() };
        self.client.clone().release_container(self.request(request)).await?;
        Ok(())
    }

    fn abandon_container(&self, container: String) {
        // Outside a runtime the build is over, and the container with it.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let bridge = self.clone();
            drop(runtime.spawn(async move { bridge.release_container(&container).await }));
        }
    }

    async fn exec(
        &self,
        mut input: BoxStream<'static, gateway::ExecMessage>,
    ) -> Result<BoxStream<'static, Result<gateway::ExecMessage>>> {
        let first = input.next().await;
        let secrets = first.as_ref().map(required_secrets).unwrap_or_default();
        let (input, end_of_input) = stream::abortable(stream::iter(first).chain(input));
        let mut client = self.client.clone();
        let call = pin!(client.exec_process(self.request(Outgoing(input.boxed()))));
        // The daemon answers with the first message of the process. When it cannot start the process, which
        // is for want of a secret, it tells so only once nothing more can come from here.
        let answer = match select(call, pin!(self.lacks(&secrets))).await {
            Either::Left((answer, _)) => answer,
            Either::Right(((), call)) => {
                end_of_input.abort();
                call.await
            }
        };
        Ok(Answers(Some(answer?.into_inner())).boxed())
    }
}

/// The messages of a process that arrive. Dropped before their end, they are still received for a
/// moment: to hang up at once would overtake the message that kills the process.
struct Answers(Option<Streaming<gateway::ExecMessage>>);

/// How long that moment is.
const HANGING_UP: Duration = Duration::from_secs(5);

impl Stream for Answers {
    type Item = Result<gateway::ExecMessage>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(stream) = &mut self.0 else { return Poll::Ready(None) };
        let message = ready!(stream.poll_next_unpin(cx));
        if !matches!(message, Some(Ok(_))) {
            self.0 = None;
        }
        Poll::Ready(message.map(|message| message.map_err(Error::from)))
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        // Outside a runtime the build is over, and the process with it.
        if let (Some(stream), Ok(runtime)) = (self.0.take(), tokio::runtime::Handle::try_current()) {
            let rest = stream.take_while(|message| std::future::ready(message.is_ok()));
            drop(runtime.spawn(tokio::time::timeout(HANGING_UP, rest.for_each(|_| std::future::ready(())))));
        }
    }
}

/// The secrets without which a process does not start.
fn required_secrets(first: &gateway::ExecMessage) -> Vec<String> {
    let Some(Input::Init(init)) = &first.input else { return Vec::new() };
    init.secretenv.iter().filter(|secret| !secret.optional).map(|secret| secret.id.clone()).collect()
}

impl<T> fmt::Debug for GrpcBridge<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrpcBridge").field("session_id", &self.environment.session_id).finish_non_exhaustive()
    }
}

/// The messages of a process. A type of its own because the compiler cannot
/// see through a boxed stream inside an async trait.
struct Outgoing(BoxStream<'static, gateway::ExecMessage>);

impl Stream for Outgoing {
    type Item = gateway::ExecMessage;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.as_mut().poll_next(cx)
    }
}

fn address(tree: Tree<'_>) -> (String, i32) {
    match tree {
        Tree::Reference(id) => (id.into(), 0),
        Tree::Mount { container, index } => (container.into(), index),
    }
}

/// The form of references that daemons before 0.7 read.
fn old_refs(result: gateway::result::Result) -> gateway::result::Result {
    match result {
        gateway::result::Result::Ref(one) => gateway::result::Result::RefDeprecated(one.id),
        gateway::result::Result::Refs(map) => {
            let refs = map.refs.into_iter().map(|(key, one)| (key, one.id)).collect();
            gateway::result::Result::RefsDeprecated(gateway::RefMapDeprecated { refs })
        }
        old => old,
    }
}

/// An error that the daemon can take: the files in its details may be larger
/// than a message.
fn bounded(error: &Error) -> buildkit_proto::rpc::Status {
    let mut status = error.to_status();
    while status.encoded_len() > MAX_MESSAGE / 2 && status.details.pop().is_some() {}
    if status.message.len() > MAX_MESSAGE / 4 {
        let text = status.message.as_bytes().get(..MAX_MESSAGE / 4).unwrap_or_default();
        status.message = String::from_utf8_lossy(text).into_owned();
    }
    status
}

impl From<tonic::Status> for Error {
    fn from(status: tonic::Status) -> Self {
        let decoded = buildkit_proto::rpc::Status::decode(status.details()).unwrap_or_default();
        Self::from_status(buildkit_proto::rpc::Status {
            code: status.code().into(),
            message: status.message().into(),
            details: decoded.details,
        })
    }
}
