//! Rules about stages and the casing of keywords.

use super::{Linter, Rule, Site};
use crate::parser::Lines;

pub(super) static STAGE_NAME_CASING: Rule = Rule {
    name: "StageNameCasing",
    description: "Stage names should be lowercase",
    slug: Some("stage-name-casing"),
    inline: true,
    experimental: false,
};

pub(super) static FROM_AS_CASING: Rule = Rule {
    name: "FromAsCasing",
    description: "The 'as' keyword should have the casing of the 'from' keyword",
    slug: Some("from-as-casing"),
    inline: true,
    experimental: false,
};

pub(super) static CONSISTENT_INSTRUCTION_CASING: Rule = Rule {
    name: "ConsistentInstructionCasing",
    description: "All instructions of a Dockerfile should use the same casing",
    slug: Some("consistent-instruction-casing"),
    inline: false,
    experimental: false,
};

pub(super) static DUPLICATE_STAGE_NAME: Rule = Rule {
    name: "DuplicateStageName",
    description: "Stage names should be unique",
    slug: Some("duplicate-stage-name"),
    inline: false,
    experimental: false,
};

pub(super) static RESERVED_STAGE_NAME: Rule = Rule {
    name: "ReservedStageName",
    description: "Reserved words should not be used as stage names",
    slug: Some("reserved-stage-name"),
    inline: false,
    experimental: false,
};

impl Linter {
    /// The stage of `site` is called `name`, as written.
    pub fn stage_name_casing(&mut self, site: Site<'_>, name: &str) {
        let lower = name.to_lowercase();
        if name != lower {
            self.fire(&STAGE_NAME_CASING, site, || {
                format!("stage name '{name}' should be lowercase: '{lower}'")
            });
        }
    }

    /// A stage is named with the keywords `from` and `r#as`, as written.
    pub fn from_as_casing(&mut self, site: Site<'_>, from: &str, r#as: &str) {
        let wanted = match Casing::of(from) {
            Some(Casing::Lower) => r#as.to_lowercase(),
            Some(Casing::Upper) => r#as.to_uppercase(),
            None => return,
        };
        if r#as != wanted {
            self.fire(&FROM_AS_CASING, site, || {
                format!("'{from}' and '{as}' have different casing; write '{wanted}'")
            });
        }
    }

    /// The name of this stage was taken by an earlier one.
    pub fn duplicate_stage_name(&mut self, site: Site<'_>, name: &str) {
        self.fire(&DUPLICATE_STAGE_NAME, site, || {
            format!("an earlier stage is called \"{name}\" already; give this one another name")
        });
    }

    /// Checks the stage name against the names that mean something else to a build.
    pub fn reserved_stage_name(&mut self, site: Site<'_>, name: &str) {
        if matches!(name, "context" | "scratch") {
            self.fire(&RESERVED_STAGE_NAME, site, || {
                format!("\"{name}\" is a reserved word; give the stage another name")
            });
        }
    }

    /// Checks that all keywords, given with their places in order, have the casing of the majority.
    ///
    /// Keywords of mixed case have no vote; a tie goes to upper case.
    pub fn consistent_instruction_casing<'a>(
        &mut self,
        keywords: impl Iterator<Item = (&'a str, Lines)> + Clone,
    ) {
        let (mut lower, mut upper) = (0usize, 0usize);
        for (keyword, _) in keywords.clone() {
            match Casing::of(keyword) {
                Some(Casing::Lower) => lower += 1,
                Some(Casing::Upper) => upper += 1,
                None => {}
            }
        }
        let (majority, word) =
            if lower > upper { (Casing::Lower, "lowercase") } else { (Casing::Upper, "uppercase") };
        for (keyword, lines) in keywords {
            if Casing::of(keyword) != Some(majority) {
                self.fire(&CONSISTENT_INSTRUCTION_CASING, lines.into(), || {
                    format!("'{keyword}' should be {word}, as most instructions of this file are")
                });
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Casing {
    Lower,
    Upper,
}

impl Casing {
    /// The casing of `word`, if its letters agree.
    fn of(word: &str) -> Option<Self> {
        if !word.bytes().any(|b| b.is_ascii_uppercase()) {
            Some(Casing::Lower)
        } else if !word.bytes().any(|b| b.is_ascii_lowercase()) {
            Some(Casing::Upper)
        } else {
            None
        }
    }
}
