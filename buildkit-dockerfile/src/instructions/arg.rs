//! ARG.

/// ARG: one or more build arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arg {
    /// The arguments in order.
    pub args: Vec<BuildArg>,
}

/// One build argument. Its description is [`Instruction::describe`](super::Instruction::describe).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildArg {
    /// The name, not expanded.
    pub name: String,
    /// The default, a word to expand.
    pub default: Option<String>,
}
