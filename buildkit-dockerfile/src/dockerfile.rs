//! A parsed Dockerfile.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::instructions::{self, Instruction, Kind, Parsed, Stage};
use crate::lint::{Config, Linter, Warning};
use crate::parser::{Escape, Parser, directive};
use crate::{Error, ErrorKind, Result};

/// A parsed Dockerfile: global arguments and stages, with every byte of the source kept.
#[derive(Clone, Debug)]
pub struct Dockerfile {
    source: Arc<[u8]>,
    /// The escape character in force.
    pub escape: Escape,
    /// The ARG instructions above the first FROM; each is [`Kind::Arg`].
    pub args: Vec<Instruction>,
    /// The stages in order; at least one.
    pub stages: Vec<Stage>,
}

impl Dockerfile {
    /// Parses `source`. Warnings are lost; see [`Dockerfile::parse_with`].
    ///
    /// # Errors
    ///
    /// Whatever is wrong with the text or an instruction, with its lines.
    pub fn parse(source: impl AsRef<[u8]>) -> Result<Self> {
        Self::parse_with(source, &mut Linter::silent())
    }

    /// Parses `source`; rules that need only the text report to `linter`.
    ///
    /// # Errors
    ///
    /// Whatever is wrong with the text or an instruction, with its lines. An instruction that breaks its own
    /// rules is reported only if the whole text can be split into instructions.
    pub fn parse_with(source: impl AsRef<[u8]>, linter: &mut Linter) -> Result<Self> {
        let source = source.as_ref();
        if source.is_empty() {
            return Err(Error::new(ErrorKind::Syntax, "the Dockerfile is empty"));
        }
        let mut file = Self {
            source: Arc::from(source),
            escape: Escape::default(),
            args: Vec::new(),
            stages: Vec::new(),
        };
        file.escape = Self::read(source, linter, |parsed| file.push(parsed))?;
        if file.stages.is_empty() {
            return Err(Error::new(ErrorKind::Stage, "the Dockerfile has no stage; start one with FROM"));
        }
        file.check_names(linter);
        Ok(file)
    }

    /// Gives `keep` each instruction of `source`, until one is wrong; the escape character in force.
    fn read(
        source: &[u8],
        linter: &mut Linter,
        mut keep: impl FnMut(Parsed) -> Result<()>,
    ) -> Result<Escape> {
        let mut parser = Parser::new(source);
        let mut blank_lines = Vec::new();
        // Rules of instructions fire after those of the text, and only if the text is sound.
        let mut rules = linter.fork();
        let mut first_error = None;
        while let Some(node) = parser.next_node()? {
            blank_lines.extend(node.empty_continuation);
            if first_error.is_none() {
                first_error = instructions::parse(node, &mut rules).and_then(&mut keep).err();
            }
        }
        for line in blank_lines {
            linter.no_empty_continuation(line);
        }
        linter.join(rules);
        first_error.map_or(Ok(parser.escape()), Err)
    }

    fn push(&mut self, parsed: Parsed) -> Result<()> {
        match (parsed, self.stages.last_mut()) {
            (Parsed::Stage(stage), _) => self.stages.push(*stage),
            (Parsed::Instruction(instruction), Some(stage)) => stage.instructions.push(instruction),
            (Parsed::Instruction(instruction), None) if matches!(instruction.kind, Kind::Arg(_)) => {
                self.args.push(instruction);
            }
            (Parsed::Instruction(Instruction { keyword, lines, .. }), None) => {
                let message = format!("{keyword} stands before the first FROM; only ARG may");
                return Err(Error::new(ErrorKind::Stage, message).at(lines));
            }
        }
        Ok(())
    }

    /// The rules about names and keywords of all stages.
    fn check_names(&self, linter: &mut Linter) {
        let mut names = BTreeSet::new();
        for stage in &self.stages {
            let Some(name) = stage.name.as_deref() else { continue };
            linter.reserved_stage_name(stage.lines.into(), name);
            if !names.insert(name) {
                linter.duplicate_stage_name(stage.lines.into(), name);
            }
        }
        linter.consistent_instruction_casing(self.stages.iter().flat_map(|stage| {
            let own = stage.instructions.iter().map(|i| (i.keyword.as_str(), i.lines));
            std::iter::once((stage.keyword.as_str(), stage.lines)).chain(own)
        }));
    }

    /// The bytes it was parsed from.
    pub fn source(&self) -> &Arc<[u8]> {
        &self.source
    }

    /// What lint rules that need only the text say, under the file's own `check` directive. Rules that need
    /// the environment of a stage or its base image fire when the file is converted.
    ///
    /// # Errors
    ///
    /// A malformed `check` directive.
    pub fn lint(&self) -> Result<Vec<Warning>> {
        let config = match directive(&self.source, "check") {
            Some(check) => Config::parse(check.first_word())
                .map_err(|e| e.at(crate::parser::Lines::single(check.line)))?,
            None => Config::default(),
        };
        let mut linter = Linter::new(config);
        // Each instruction is read again and forgotten: all of them would take as much memory as the file itself.
        Self::read(&self.source, &mut linter, |_| Ok(()))?;
        self.check_names(&mut linter);
        Ok(linter.take_warnings())
    }
}
