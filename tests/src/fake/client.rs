//! Clients of a scripted BuildKit.

use super::{FakeBuildKit, Faults, Frames, Injector};
use buildkit_client::connect::{Connector, Liveness, Stream};
use buildkit_client::error::ConnectError;
use buildkit_client::{Client, ClientBuilder};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::AsyncWriteExt as _;

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

/// A link whose far end a test replaces: by a scripted BuildKit, or by bytes that are none.
#[derive(Debug, Clone, Default)]
pub struct Link(Arc<Mutex<End>>);

#[derive(Debug, Clone, Default)]
enum End {
    /// Nobody listens.
    #[default]
    Nobody,
    Fake(FakeBuildKit, Faults, Frames),
    /// Says these bytes, and then nothing, or closes.
    Bytes(Vec<u8>, bool),
    /// The connection never comes about.
    Never,
}

impl Link {
    /// A link to this BuildKit.
    pub fn to(fake: &FakeBuildKit) -> Self {
        let link = Self::default();
        link.rebind(fake);
        link
    }

    /// From now on connections end at this BuildKit.
    pub fn rebind(&self, fake: &FakeBuildKit) {
        self.set(End::Fake(fake.clone(), Faults::default(), Frames::default()));
    }

    /// From now on connections end at nobody.
    pub fn cut(&self) {
        self.set(End::Nobody);
    }

    /// From now on connections end at something that says these bytes, and then closes or stays silent.
    pub fn say(&self, bytes: &[u8], close: bool) {
        self.set(End::Bytes(bytes.to_vec(), close));
    }

    /// From now on connections never come about.
    pub fn never(&self) {
        self.set(End::Never);
    }

    /// The faults and frames of connections to a scripted BuildKit.
    ///
    /// # Panics
    /// When the link does not end at one.
    pub fn controls(&self) -> (Faults, Frames) {
        match &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            End::Fake(_, faults, frames) => (faults.clone(), frames.clone()),
            other => panic!("no scripted BuildKit: {other:?}"),
        }
    }

    /// A client over this link.
    ///
    /// # Panics
    /// Never: the address is not parsed.
    pub fn client(&self, liveness: Liveness) -> Client {
        let client = Client::builder_over(self.clone()).liveness(liveness).lazy();
        client.unwrap_or_else(|error| panic!("{error}"))
    }

    fn set(&self, end: End) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = end;
    }
}

#[async_trait::async_trait]
impl Connector for Link {
    async fn connect(&self) -> Result<Stream, ConnectError> {
        let end = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match end {
            End::Nobody => {
                Err(ConnectError::from_io(&self.endpoint(), std::io::ErrorKind::ConnectionRefused.into()))
            }
            End::Never => std::future::pending().await,
            End::Fake(fake, faults, frames) => Ok(Stream::new(Injector::new(fake.dial_with(faults), frames))),
            End::Bytes(bytes, close) => {
                let (near, mut far) = tokio::io::duplex(64 * 1024);
                tokio::spawn(async move {
                    let _ = far.write_all(&bytes).await;
                    if !close {
                        let _ = tokio::io::copy(&mut far, &mut tokio::io::sink()).await;
                    }
                });
                Ok(Stream::new(near))
            }
        }
    }

    fn endpoint(&self) -> String {
        "fake://link".to_owned()
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
