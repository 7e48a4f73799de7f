//! What the caller attaches to a session beside files.

use super::member::Offer;
use super::secrets::{SecretSource, Secrets};
use super::ssh::{Ssh, SshSource};
use super::{Attachable, Service, SessionContext, content, exporter, exporters, filesync, policy, upload};
use crate::error::RequestError;
use crate::policy::SourceVerifier;
use buildkit_fsutil::send::SendOptions;
use std::sync::Arc;

/// Services of the caller, and what becomes one when the session opens.
#[derive(Debug, Default)]
pub(crate) struct Attached {
    pub(crate) services: Vec<Arc<dyn Attachable>>,
    pub(crate) secrets: Vec<(String, SecretSource)>,
    pub(crate) ssh: Vec<(String, SshSource)>,
    pub(crate) send: Option<SendOptions>,
    pub(crate) verifier: Option<Arc<dyn SourceVerifier>>,
}

impl Attached {
    /// Reads secrets and keys, so that one that is missing is found before anything is sent.
    pub(crate) async fn load(&mut self) -> Result<(), RequestError> {
        if !self.secrets.is_empty() {
            let secrets = Secrets::load(std::mem::take(&mut self.secrets)).await;
            let secrets =
                secrets.map_err(|error| RequestError::Attachment { what: "secret", source: error.into() })?;
            self.services.push(Arc::new(secrets));
        }
        if !self.ssh.is_empty() {
            let ssh = Ssh::load(std::mem::take(&mut self.ssh)).await;
            let ssh =
                ssh.map_err(|error| RequestError::Attachment { what: "ssh agent", source: error.into() })?;
            self.services.push(Arc::new(ssh));
        }
        Ok(())
    }

    /// The method with which something was attached.
    pub(crate) fn any(&self) -> Option<&'static str> {
        let all = [
            (!self.services.is_empty(), "an attachable or credentials (.attach, .auth)"),
            (!self.secrets.is_empty(), "a secret (.secret)"),
            (!self.ssh.is_empty(), "an ssh agent (.ssh)"),
            (self.send.is_some(), "options for sending files (.send_options)"),
            (self.verifier.is_some(), "a policy callback (.policy_callback)"),
        ];
        all.into_iter().find_map(|(attached, what)| attached.then_some(what))
    }

    /// Whether something secret may be among it.
    pub(crate) fn is_secret(&self) -> bool {
        !self.services.is_empty()
    }

    /// The services of a session: those that `offer` needs, or all of them where builds come later.
    pub(crate) fn services(&self, context: &SessionContext, offer: Option<&Offer>) -> Vec<Service> {
        let wanted = |needed: fn(&Offer) -> bool| offer.is_none_or(needed);
        let mut services = Vec::new();
        if wanted(|offer| !offer.locals.is_empty()) {
            services.push(filesync::service(self.send.clone().unwrap_or_default(), context.clone()));
        }
        for attached in &self.services {
            services.extend(attached.services(context));
        }
        if wanted(|offer| !offer.stores.is_empty()) {
            services.push(content::service(context.clone()));
        }
        if wanted(|offer| !offer.uploads.is_empty()) {
            services.push(upload::service(context.clone()));
        }
        if wanted(|offer| !offer.outputs.is_empty() || offer.chooser.is_some()) {
            services.push(exporter::service(context.clone()));
        }
        if wanted(|offer| offer.chooser.is_some()) {
            services.push(exporters::service(context.clone()));
        }
        if let Some(verifier) = &self.verifier {
            services.push(policy::service(Arc::clone(verifier), context.clone()));
        }
        services
    }
}
