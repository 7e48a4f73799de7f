//! Clients of a scripted BuildKit.

use super::{FakeBuildKit, Faults};
use buildkit_client::connect::{Connector, Liveness, Stream};
use buildkit_client::error::ConnectError;
use buildkit_client::{Client, ClientBuilder};

/// Dials a scripted BuildKit; every connection has the same faults.
#[derive(Debug, Clone)]
pub struct Dial {
    fake: FakeBuildKit,
    faults: Faults,
}

#[async_trait::async_trait]
impl Connector for Dial {
    async fn connect(&self) -> Result<Stream, ConnectError> {
        Ok(Stream::new(self.fake.dial_with(self.faults.clone())))
    }

    fn endpoint(&self) -> String {
        "fake://buildkit".to_owned()
    }
}

impl FakeBuildKit {
    /// A client of this BuildKit.
    pub fn client(&self) -> Client {
        self.client_with(&Faults::default(), Liveness::default())
    }

    /// A client whose connections have these faults.
    ///
    /// # Panics
    /// Never: the address is not parsed.
    pub fn client_with(&self, faults: &Faults, liveness: Liveness) -> Client {
        let builder = self.client_builder(faults).liveness(liveness);
        builder.lazy().unwrap_or_else(|error| panic!("{error}"))
    }

    /// The same, before it is made.
    pub fn client_builder(&self, faults: &Faults) -> ClientBuilder {
        Client::builder_over(Dial { fake: self.clone(), faults: faults.clone() })
    }
}
