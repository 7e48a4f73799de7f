//! What is built.

use buildkit_llb::State;
use buildkit_proto::pb;
use std::collections::BTreeMap;
use std::fmt;

/// What to build.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub enum Input {
    /// Nothing yet; refused.
    #[default]
    Empty,
    /// A graph. It is marshalled when the build starts.
    State(State),
    /// A graph that is marshalled already.
    Definition(pb::Definition),
    /// A frontend of the daemon, which makes the graph.
    Frontend(Frontend),
    /// A function of the caller drives the build through the gateway.
    Gateway(Frontend),
}

impl From<State> for Input {
    fn from(state: State) -> Self {
        Self::State(state)
    }
}

impl From<&State> for Input {
    fn from(state: &State) -> Self {
        Self::State(state.clone())
    }
}

impl From<pb::Definition> for Input {
    fn from(definition: pb::Definition) -> Self {
        Self::Definition(definition)
    }
}

impl From<buildkit_llb::Definition> for Input {
    fn from(definition: buildkit_llb::Definition) -> Self {
        Self::Definition(definition.to_pb())
    }
}

impl From<Frontend> for Input {
    fn from(frontend: Frontend) -> Self {
        Self::Frontend(frontend)
    }
}

/// A frontend by name, with its options as they are sent.
///
/// ```
/// # use buildkit_client::request::Frontend;
/// let dockerfile = Frontend::new("dockerfile.v0").opt("target", "test").opt("build-arg:V", "1");
/// let image = Frontend::image("docker.io/example/frontend:1");
/// ```
#[derive(Clone, Default)]
pub struct Frontend {
    pub(crate) name: String,
    pub(crate) opts: BTreeMap<String, String>,
    pub(crate) inputs: BTreeMap<String, FrontendInput>,
}

impl fmt::Debug for Frontend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Frontend")
            .field("name", &self.name)
            .field("opts", &crate::redact::Attributes(&self.opts))
            .field("inputs", &self.inputs.keys())
            .finish()
    }
}

#[derive(Clone)]
pub(crate) enum FrontendInput {
    State(State),
    Definition(pb::Definition),
}

impl Frontend {
    /// One that is built into the daemon: `dockerfile.v0` or `gateway.v0`.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    /// One that is an image; the daemon pulls it.
    pub fn image(reference: impl Into<String>) -> Self {
        Self::new("gateway.v0").opt("source", reference)
    }

    /// Sets an option.
    #[must_use]
    pub fn opt(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.opts.insert(key.into(), value.into());
        self
    }

    /// Gives it a graph under a name, for example as its `context`.
    #[must_use]
    pub fn input(mut self, name: impl Into<String>, state: impl Into<State>) -> Self {
        self.inputs.insert(name.into(), FrontendInput::State(state.into()));
        self
    }

    /// Gives it a marshalled graph under a name.
    #[must_use]
    pub fn input_definition(mut self, name: impl Into<String>, definition: pb::Definition) -> Self {
        self.inputs.insert(name.into(), FrontendInput::Definition(definition));
        self
    }
}
