//! The rule about comments that describe a stage or a build argument.

use super::{Linter, Rule, Site};

pub(super) static INVALID_DEFINITION_DESCRIPTION: Rule = Rule {
    name: "InvalidDefinitionDescription",
    description: "The comment right above a stage or a build argument should describe it as `# NAME <description>`; put a blank line between if it is not a description",
    slug: Some("invalid-definition-description"),
    inline: true,
    experimental: true,
};

impl Linter {
    /// Checks the last comment above FROM or ARG (`keyword`): it should start with one of `names`.
    pub fn invalid_definition_description<'n>(
        &mut self,
        site: Site<'_>,
        keyword: &str,
        names: impl Iterator<Item = &'n str> + Clone,
    ) {
        let Some(comment) = site.comments.last() else { return };
        let first = comment.split(' ').next().unwrap_or_default();
        if names.clone().any(|name| name == first) {
            return;
        }
        self.fire(&INVALID_DEFINITION_DESCRIPTION, site, || {
            let mut names = names;
            let name = match (names.next(), names.next()) {
                (Some(one), None) => one,
                _ => "<arg_key>",
            };
            format!("a comment that describes this {keyword} reads `# {name} <description>`")
        });
    }
}
