//! `Debug` of the messages that hold secrets: what they are, never what they
//! say.

use std::fmt::{Debug, Formatter, Result};

use crate::auth::{CredentialsResponse, FetchTokenResponse};
use crate::secrets::GetSecretResponse;

impl Debug for CredentialsResponse {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_struct("CredentialsResponse").field("username", &self.username).finish_non_exhaustive()
    }
}

impl Debug for FetchTokenResponse {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_struct("FetchTokenResponse")
            .field("expires_in", &self.expires_in)
            .field("issued_at", &self.issued_at)
            .finish_non_exhaustive()
    }
}

impl Debug for GetSecretResponse {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_struct("GetSecretResponse").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_of_secrets_does_not_show_them() {
        let shown = [
            format!("{:?}", CredentialsResponse { username: "ann".into(), secret: "hunter2".into() }),
            format!("{:?}", FetchTokenResponse { token: "hunter2".into(), ..Default::default() }),
            format!("{:?}", GetSecretResponse { data: "hunter2".into() }),
        ];
        for text in shown {
            assert!(!text.contains("hunter2") && !text.contains("104"), "{text}");
        }
    }
}
