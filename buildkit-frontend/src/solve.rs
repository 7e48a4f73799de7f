//! Requests to build something.

use std::collections::BTreeMap;

use buildkit_llb::Definition;
use buildkit_proto::sourcepolicy::Policy;
use buildkit_proto::{gateway, pb};

/// A request to build: a graph, or another frontend with its options.
///
/// Graphs turn into requests by themselves, so `gateway.solve(definition)`
/// is enough for the common case.
#[derive(Debug, Clone, Default)]
#[must_use = "a request does nothing until it is solved"]
pub struct Solve {
    pub(crate) request: gateway::SolveRequest,
}

impl Solve {
    /// Builds a graph.
    pub fn definition(definition: &Definition) -> Self {
        definition.to_pb().into()
    }

    /// Calls another frontend: `dockerfile.v0`, or `gateway.v0` with the
    /// option `source` naming its image.
    pub fn frontend(name: impl Into<String>) -> Self {
        let mut solve = Self::default();
        solve.request.frontend = name.into();
        solve
    }

    /// Calls the frontend in an image.
    pub fn frontend_image(reference: impl Into<String>) -> Self {
        Self::frontend("gateway.v0").option("source", reference)
    }

    /// Sets an option of the frontend.
    pub fn option(mut self, name: impl Into<String>, text: impl Into<String>) -> Self {
        self.request.frontend_opt.insert(name.into(), text.into());
        self
    }

    /// Sets options of the frontend.
    pub fn options<K: Into<String>, V: Into<String>>(
        mut self,
        options: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        let options = options.into_iter().map(|(name, text)| (name.into(), text.into()));
        self.request.frontend_opt.extend(options);
        self
    }

    /// Gives the frontend a graph in place of a context, such as `context`,
    /// `dockerfile`, or a named one.
    pub fn input(mut self, name: impl Into<String>, definition: &Definition) -> Self {
        self.request.frontend_inputs.insert(name.into(), definition.to_pb());
        self
    }

    /// Reads a cache, such as `registry` with the attribute `ref`.
    pub fn cache_from<K: Into<String>, V: Into<String>>(
        mut self,
        kind: impl Into<String>,
        attrs: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        let attrs: BTreeMap<_, _> = attrs.into_iter().map(|(k, v)| (k.into(), v.into())).collect();
        self.request.cache_imports.push(gateway::CacheOptionsEntry { r#type: kind.into(), attrs });
        self
    }

    /// Applies a source policy beside those of the build.
    pub fn source_policy(mut self, policy: Policy) -> Self {
        self.request.source_policies.push(policy);
        self
    }

    /// Builds before answering. Without it, errors of the build show up when
    /// the result is first looked at.
    pub fn evaluate(mut self) -> Self {
        self.request.evaluate = true;
        self
    }
}

impl From<pb::Definition> for Solve {
    fn from(definition: pb::Definition) -> Self {
        let mut solve = Self::default();
        solve.request.definition = Some(definition);
        solve
    }
}

impl From<gateway::SolveRequest> for Solve {
    /// A request as it travels.
    fn from(request: gateway::SolveRequest) -> Self {
        Self { request }
    }
}

impl From<Definition> for Solve {
    fn from(definition: Definition) -> Self {
        Self::definition(&definition)
    }
}

impl From<&Definition> for Solve {
    fn from(definition: &Definition) -> Self {
        Self::definition(definition)
    }
}
