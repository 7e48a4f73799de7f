//! Decisions about sources, asked for by the daemon.

use super::{MAX_MESSAGE, Service, SessionContext, registry_of};
use crate::policy::{SourceCheck, SourceVerifier, Verdict};
use buildkit_proto::policysession as pb;
use buildkit_proto::policysession::check_policy_response::Result as Answer;
use buildkit_proto::policysession::policy_verifier_server::{PolicyVerifier, PolicyVerifierServer};
use buildkit_proto::sourcepolicy::PolicyAction;
use std::collections::BTreeSet;
use std::sync::Arc;
use tonic::{Request, Response, Status};

/// The service.
pub(crate) fn service(verifier: Arc<dyn SourceVerifier>, context: SessionContext) -> Service {
    let server =
        PolicyVerifierServer::new(Server { verifier, context }).max_decoding_message_size(MAX_MESSAGE);
    Service::new(server, &["CheckPolicy"])
}

#[derive(Debug)]
struct Server {
    verifier: Arc<dyn SourceVerifier>,
    context: SessionContext,
}

impl Server {
    /// Lets the build use the credentials of the registry of an image that the callback puts in place of another: the
    /// callback is this program's. What the daemon merely asks about is named by nobody here.
    fn name(&self, identifier: &str) {
        if let Some((scheme, reference)) = identifier.split_once("://")
            && scheme.starts_with("docker-image")
        {
            self.context.name_registries(&BTreeSet::from([registry_of(reference)]));
        }
    }
}

#[tonic::async_trait]
impl PolicyVerifier for Server {
    async fn check_policy(
        &self,
        request: Request<pb::CheckPolicyRequest>,
    ) -> Result<Response<pb::CheckPolicyResponse>, Status> {
        let check = SourceCheck(request.into_inner());
        let decision =
            |action: PolicyAction| pb::DecisionResponse { action: action.into(), ..Default::default() };
        let answer = match self.verifier.check(&check).await {
            Ok(Verdict::Allow) => Answer::Decision(decision(PolicyAction::Allow)),
            Ok(Verdict::Deny(reasons)) => {
                let deny_messages = reasons.into_iter().map(|message| pb::DenyMessage { message }).collect();
                Answer::Decision(pb::DecisionResponse { deny_messages, ..decision(PolicyAction::Deny) })
            }
            Ok(Verdict::Convert(update)) => {
                self.name(&update.identifier);
                Answer::Decision(pb::DecisionResponse {
                    update: Some(*update),
                    ..decision(PolicyAction::Convert)
                })
            }
            Ok(Verdict::Resolve(request)) => Answer::Request(*request),
            Err(error) => {
                let what = format!("the policy callback failed on source {:?}", check.identifier());
                let status = Status::unknown(format!("{what}: {error}"));
                self.context.failed(what, error);
                return Err(status);
            }
        };
        Ok(Response::new(pb::CheckPolicyResponse { result: Some(answer) }))
    }
}
