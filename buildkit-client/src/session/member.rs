//! One build's part in its session: what it offers, and what is noted for it.

use super::content::Stores;
use super::filesync::Locals;
use super::upload::Upload;
use super::{RegistryScope, SessionContext, hub, lock};
use crate::error::{LocalError, RequestError, SolveError, SolveErrorKind};
use crate::export::SessionExporter;
use crate::output::Outputs;
use crate::progress::{Reporter, one_line};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Failures and suspicions past this count are counted, not kept.
const MAX_KEPT: usize = 32;
/// Id of the content store that an exporter fills.
pub(crate) const EXPORT_STORE: &str = "export";

/// What a build brings to its session. A shared session has one of its own as well.
#[derive(Debug)]
pub(crate) struct Offer {
    pub(crate) locals: Locals,
    pub(crate) stores: Stores,
    pub(crate) uploads: BTreeMap<String, Upload>,
    pub(crate) outputs: Outputs,
    /// Chooses further exporters, and how many the request has.
    pub(crate) chooser: Option<(Arc<dyn SessionExporter>, usize)>,
    pub(crate) scope: RegistryScope,
    pub(crate) progress: Option<Reporter>,
}

impl Default for Offer {
    fn default() -> Self {
        Self {
            locals: Locals::default(),
            stores: Stores::default(),
            uploads: BTreeMap::new(),
            outputs: Outputs::default(),
            chooser: None,
            scope: RegistryScope::Hosts(BTreeSet::new()),
            progress: None,
        }
    }
}

impl Offer {
    /// Whether a result comes to this side. Daemons do not say of which build.
    pub(super) fn exports(&self) -> bool {
        !self.outputs.is_empty() || self.chooser.is_some() || self.stores.get(EXPORT_STORE).is_some()
    }
}

/// A build that runs on a session.
#[derive(Debug)]
pub(crate) struct Member {
    offer: Offer,
    /// Those that were not fetched yet.
    uploads: Mutex<BTreeMap<String, Upload>>,
    /// Registries that came to be named after the build was made.
    named: Mutex<BTreeSet<String>>,
    /// What became of the credentials that the daemon asked for, by registry.
    asked: Mutex<BTreeMap<String, Given>>,
    /// Whether it asked although there was nobody to answer.
    asked_nobody: AtomicBool,
    failures: Mutex<Vec<LocalError>>,
    suspicions: Mutex<Suspicions>,
    not_utf8: OnceLock<(String, String)>,
    /// Whether the daemon is done with the build.
    answered: AtomicBool,
    closed: CancellationToken,
    /// Is cancelled when an export fails here: no daemon can end the build well any more.
    export_failed: CancellationToken,
}

/// What a daemon got when it asked for the credentials of a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Given {
    /// None: no build names the registry.
    Refused,
    /// None: there are none, where these were asked.
    Nothing(Vec<String>),
    /// Those that came from here.
    From(String),
}

#[derive(Debug, Default)]
struct Suspicions {
    count: u64,
    first: Vec<String>,
}

impl Deref for Member {
    type Target = Offer;

    fn deref(&self) -> &Offer {
        &self.offer
    }
}

impl Member {
    pub(super) fn new(offer: Offer) -> Self {
        Self {
            uploads: Mutex::new(offer.uploads.clone()),
            offer,
            named: Mutex::default(),
            asked: Mutex::default(),
            asked_nobody: AtomicBool::new(false),
            failures: Mutex::default(),
            suspicions: Mutex::default(),
            not_utf8: OnceLock::new(),
            answered: AtomicBool::new(false),
            closed: CancellationToken::new(),
            export_failed: CancellationToken::new(),
        }
    }

    /// Is cancelled when the build ends.
    pub(crate) fn closed(&self) -> &CancellationToken {
        &self.closed
    }

    pub(super) fn take_upload(&self, id: &str) -> Option<Upload> {
        lock(&self.uploads).remove(id)
    }

    pub(super) fn allows_registry(&self, host: &str) -> bool {
        self.scope.allows(host) || lock(&self.named).contains(hub(host))
    }

    /// Adds registries that the build names.
    pub(crate) fn name_registries(&self, hosts: impl IntoIterator<Item = String>) {
        lock(&self.named).extend(hosts);
    }

    /// Notes what the daemon got for a registry. Whether it is news.
    pub(super) fn gave(&self, host: &str, given: Given) -> bool {
        let mut asked = lock(&self.asked);
        (asked.len() < MAX_KEPT || asked.contains_key(host))
            && asked.insert(host.to_owned(), given.clone()) != Some(given)
    }

    pub(super) fn asked_nobody(&self) {
        self.asked_nobody.store(true, Ordering::Relaxed);
    }

    /// What the caller can do about a registry that did not let the daemon in; `about` is the daemon's error.
    pub(crate) fn hints(&self, about: &SolveError) -> Vec<String> {
        let denied = about.kind() == SolveErrorKind::Auth;
        let is_about = |host: &str| denied && about.message().contains(hub(host));
        let mut hints = Vec::new();
        for (host, given) in &*lock(&self.asked) {
            let shown = one_line(host);
            match given {
                Given::Refused => hints.push(format!(
                    "no credentials were shared for {shown}, which the build does not name; \
                     .registry({shown:?}) allows it"
                )),
                Given::Nothing(asked) if is_about(host) => {
                    let asked = asked.join("; ");
                    let asked = if asked.is_empty() { asked } else { format!(" ({})", one_line(&asked)) };
                    hints.push(format!("no credentials for {shown} were found{asked}"));
                }
                Given::From(origin) if is_about(host) => {
                    hints.push(format!("the credentials for {shown} came from {origin}"));
                }
                Given::Nothing(_) | Given::From(_) => {}
            }
        }
        if denied && self.asked_nobody.load(Ordering::Relaxed) {
            let hint =
                "no credentials were given to the build; .auth(DockerConfig::load()?) gives it the user's";
            hints.push(hint.to_owned());
        }
        hints
    }

    /// Keeps a failure on this side, so that the build's error can name the root cause instead of what the daemon
    /// makes of it.
    pub(crate) fn failed(&self, what: impl Into<String>, source: impl Into<crate::error::BoxError>) {
        self.failed_with(LocalError::new(what, source));
    }

    pub(crate) fn failed_with(&self, error: LocalError) {
        let mut failures = lock(&self.failures);
        if failures.len() < MAX_KEPT {
            failures.push(error);
        }
    }

    /// Keeps a failure of an export on this side. The daemon was told, and ends the build.
    pub(super) fn export_failed(&self, error: LocalError) {
        self.failed_with(error);
        self.export_failed.cancel();
    }

    /// Waits until the daemon has not ended the build for `limit` although an export has failed here.
    pub(crate) async fn failed_for(&self, limit: Duration) {
        self.export_failed.cancelled().await;
        tokio::time::sleep(limit).await;
    }

    pub(crate) fn take_failures(&self) -> Vec<LocalError> {
        std::mem::take(&mut *lock(&self.failures))
    }

    pub(super) fn suspicious(&self, what: &str) {
        let mut suspicions = lock(&self.suspicions);
        suspicions.count += 1;
        if suspicions.first.len() < MAX_KEPT {
            suspicions.first.push(what.to_owned());
        }
    }

    pub(crate) fn suspicions(&self) -> (u64, Vec<String>) {
        let suspicions = lock(&self.suspicions);
        (suspicions.count, suspicions.first.clone())
    }

    pub(super) fn sent_not_utf8(&self, dir: &str, path: &str) {
        self.not_utf8.get_or_init(|| (dir.to_owned(), path.to_owned()));
    }

    /// A local directory, and a file in it whose name is not UTF-8.
    pub(crate) fn not_utf8(&self) -> Option<&(String, String)> {
        self.not_utf8.get()
    }

    /// Notes that the daemon has answered, so that it will send nothing more for this build.
    pub(crate) fn answered(&self) {
        self.answered.store(true, Ordering::Relaxed);
    }
}

/// Who runs on a session, and what its names mean. A name keeps its meaning for the life of the session: the daemon
/// reads a directory once in a session, and takes what it has read for any other of the same name.
#[derive(Debug, Default)]
pub(super) struct Members {
    running: Vec<Arc<Member>>,
    locals: Locals,
    uploads: BTreeSet<String>,
    /// A build was given up whose result may still come.
    result_may_come: bool,
}

impl Members {
    pub(super) fn running(&self) -> &[Arc<Member>] {
        &self.running
    }

    pub(super) fn locals(&self) -> &Locals {
        &self.locals
    }

    fn check(&self, offer: &Offer) -> Result<(), RequestError> {
        let refused =
            |what: String, reason: &'static str| RequestError::SharedSession { what, reason: reason.into() };
        if let Some(name) = self.locals.other_of(&offer.locals) {
            let reason = "the session has another directory of this name, which the daemon would take for it";
            return Err(refused(format!("local directory {name:?}"), reason));
        }
        if let Some(id) = offer.uploads.keys().find(|id| self.uploads.contains(*id)) {
            return Err(refused(format!("upload {id:?}"), "the session has had an upload of this id"));
        }
        for other in &self.running {
            if let Some(id) = other.stores.in_the_way_of(&offer.stores) {
                let reason = "a build that runs on the session uses the store too, and one of them writes to it, \
                              or it is another store";
                return Err(refused(format!("content store {id:?}"), reason));
            }
        }
        if offer.exports() {
            let what = || "an exporter that sends its result here".to_owned();
            if self.running.iter().any(|other| other.exports()) {
                let reason = "a build that runs on the session has one too, and the daemon does not say whose \
                              result it sends; start this one after that one, or on another session";
                return Err(refused(what(), reason));
            }
            if self.result_may_come {
                let reason = "a build with one was given up on the session, and the daemon may still send its \
                              result; use another session";
                return Err(refused(what(), reason));
            }
        }
        Ok(())
    }

    fn enter(&mut self, offer: Offer) -> Result<Arc<Member>, RequestError> {
        self.check(&offer)?;
        self.locals.add(&offer.locals);
        self.uploads.extend(offer.uploads.keys().cloned());
        let member = Arc::new(Member::new(offer));
        self.running.push(Arc::clone(&member));
        Ok(member)
    }
}

impl SessionContext {
    /// Adds a build, until what is returned is dropped.
    pub(crate) fn join(&self, offer: Offer) -> Result<Joined, RequestError> {
        let member = self.members().enter(offer)?;
        Ok(Joined { session: self.clone(), member })
    }
}

/// A build that joined a session. Dropping it ends its part.
#[derive(Debug)]
pub(crate) struct Joined {
    session: SessionContext,
    member: Arc<Member>,
}

impl Joined {
    pub(crate) fn member(&self) -> &Arc<Member> {
        &self.member
    }
}

impl Deref for Joined {
    type Target = Member;

    fn deref(&self) -> &Member {
        &self.member
    }
}

impl Drop for Joined {
    fn drop(&mut self) {
        self.member.closed.cancel();
        let mut members = self.session.members();
        members.running.retain(|other| !Arc::ptr_eq(other, &self.member));
        if self.member.exports() && !self.member.answered.load(Ordering::Relaxed) {
            members.result_may_come = true;
        }
    }
}
