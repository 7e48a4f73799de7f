//! Rules about EXPOSE.

use super::{Linter, Rule, Site};

pub(super) static EXPOSE_PROTO_CASING: Rule = Rule {
    name: "ExposeProtoCasing",
    description: "The protocol of an exposed port should be lowercase",
    slug: Some("expose-proto-casing"),
    inline: true,
    experimental: false,
};

pub(super) static EXPOSE_INVALID_FORMAT: Rule = Rule {
    name: "ExposeInvalidFormat",
    description: "EXPOSE takes neither an address nor a host port; this will be an error in a future release",
    slug: Some("expose-invalid-format"),
    inline: true,
    experimental: false,
};

impl Linter {
    /// The exposed port `spec` has a protocol that is not lowercase.
    pub fn expose_proto_casing(&mut self, site: Site<'_>, spec: &str) {
        self.fire(&EXPOSE_PROTO_CASING, site, || format!("the protocol of '{spec}' should be lowercase"));
    }

    /// The exposed port `spec` names an address or a host port.
    pub fn expose_invalid_format(&mut self, site: Site<'_>, spec: &str) {
        self.fire(&EXPOSE_INVALID_FORMAT, site, || {
            format!("'{spec}' names an address or a host port, which EXPOSE does not use; write the container port only")
        });
    }
}
