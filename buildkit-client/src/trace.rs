//! Where a build stands in a distributed trace.

use std::fmt;

use buildkit_proto::trace::ExportTraceServiceRequest;
use buildkit_proto::trace::trace_service_client::TraceServiceClient;
use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};
use tonic::Code;

use crate::client::Client;
use crate::error::{Error, Unsupported};

/// A place in a distributed trace, in the words of W3C: the parent of everything that a daemon notes in its own trace.
///
/// A daemon that exports traces makes its spans children of it, and gives it to the steps of the build as
/// `TRACEPARENT`.
///
/// ```
/// use buildkit_client::trace::TraceContext;
/// let context = TraceContext::new("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")?;
/// assert_eq!(context.trace_id(), "0af7651916cd43dd8448eb211c80319c");
/// # Ok::<(), buildkit_client::trace::InvalidTraceContext>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceContext {
    parent: String,
    state: Option<String>,
    baggage: Option<String>,
}

impl TraceContext {
    /// Reads a `traceparent`: `00-TRACE-SPAN-FLAGS`, in lower-case hexadecimal digits.
    ///
    /// # Errors
    /// When it is something else, or names no trace.
    pub fn new(traceparent: impl Into<String>) -> Result<Self, InvalidTraceContext> {
        let parent: String = traceparent.into();
        let parts: Vec<&str> = parent.split('-').collect();
        let hex = |text: &str, len| {
            text.len() == len && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        };
        let named = |text: &str| text.bytes().any(|byte| byte != b'0');
        match parts.as_slice() {
            // Later versions may add parts.
            [version, trace, span, flags, rest @ ..]
                if hex(version, 2)
                    && *version != "ff"
                    && (rest.is_empty() || *version != "00")
                    && hex(trace, 32)
                    && named(trace)
                    && hex(span, 16)
                    && named(span)
                    && hex(flags, 2) => {}
            _ => return Err(InvalidTraceContext("traceparent")),
        }
        header("traceparent", &parent)?;
        Ok(Self { parent, state: None, baggage: None })
    }

    /// Adds a `tracestate`: what vendors have to say.
    ///
    /// # Errors
    /// When it cannot stand in a header.
    pub fn state(mut self, tracestate: impl Into<String>) -> Result<Self, InvalidTraceContext> {
        let text = tracestate.into();
        header("tracestate", &text)?;
        self.state = Some(text).filter(|text| !text.is_empty());
        Ok(self)
    }

    /// Adds `baggage`: what travels along. It is no place for secrets.
    ///
    /// # Errors
    /// When it cannot stand in a header.
    pub fn baggage(mut self, baggage: impl Into<String>) -> Result<Self, InvalidTraceContext> {
        let text = baggage.into();
        header("baggage", &text)?;
        self.baggage = Some(text).filter(|text| !text.is_empty());
        Ok(self)
    }

    /// What `TRACEPARENT`, `TRACESTATE` and `BAGGAGE` say; `None` where the first is not set or none.
    pub fn from_env() -> Option<Self> {
        Self::from_variables(&|name| std::env::var(name).ok())
    }

    fn from_variables(variable: &dyn Fn(&str) -> Option<String>) -> Option<Self> {
        let context = Self::new(variable("TRACEPARENT")?).ok()?;
        let with_state = context.clone().state(variable("TRACESTATE").unwrap_or_default()).unwrap_or(context);
        Some(with_state.clone().baggage(variable("BAGGAGE").unwrap_or_default()).unwrap_or(with_state))
    }

    /// The `traceparent`.
    pub fn parent(&self) -> &str {
        &self.parent
    }

    /// Id of the trace: 32 hexadecimal digits.
    pub fn trace_id(&self) -> &str {
        self.parent.split('-').nth(1).unwrap_or_default()
    }

    /// Writes it into headers, in place of what is there.
    pub fn inject(&self, headers: &mut HeaderMap) {
        let values = [
            ("traceparent", Some(&self.parent)),
            ("tracestate", self.state.as_ref()),
            ("baggage", self.baggage.as_ref()),
        ];
        for (name, value) in values {
            let name = HeaderName::from_static(name);
            match value.and_then(|value| HeaderValue::from_str(value).ok()) {
                Some(value) => drop(headers.insert(name, value)),
                None => drop(headers.remove(name)),
            }
        }
    }
}

fn header(name: &'static str, text: &str) -> Result<HeaderValue, InvalidTraceContext> {
    HeaderValue::from_str(text).map_err(|_| InvalidTraceContext(name))
}

/// A text that is no trace context.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidTraceContext(&'static str);

impl fmt::Display for InvalidTraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "this is no {} of W3C Trace Context", self.0)
    }
}

impl std::error::Error for InvalidTraceContext {}

impl Client {
    /// Hands spans of this program to the daemon, which exports them with its own. One that exports no traces answers
    /// `Unavailable`.
    ///
    /// # Errors
    /// When the daemon takes no spans, or cannot be reached.
    pub async fn export_spans(&self, spans: ExportTraceServiceRequest) -> Result<(), Error> {
        const CALL: &str = "TraceService.Export";
        let link = self.link().await?;
        match TraceServiceClient::new(link.channel()).export(spans).await {
            Ok(_) => Ok(()),
            Err(status) if status.code() == Code::Unimplemented => Err(Unsupported {
                what: CALL.to_owned(),
                daemon: self.known_daemon().map(|daemon| daemon.to_string()),
                sent: true,
            }
            .into()),
            Err(status) => Err(Error::rpc(CALL, &status)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_parent_is_taken_as_the_standard_has_it() {
        for (text, valid) in [
            (PARENT, true),
            ("cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-later", true),
            ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-later", false),
            ("ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", false),
            ("00-00000000000000000000000000000000-b7ad6b7169203331-01", false),
            ("00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01", false),
            ("00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01", false),
            ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331", false),
            ("", false),
        ] {
            assert_eq!(TraceContext::new(text).is_ok(), valid, "{text}");
        }
    }

    #[test]
    fn variables_and_headers_have_the_names_of_the_standard() {
        let set = |name: &str| match name {
            "TRACEPARENT" => Some(PARENT.to_owned()),
            "TRACESTATE" => Some("vendor=1".to_owned()),
            "BAGGAGE" => Some("not\na header".to_owned()),
            _ => None,
        };
        let context = TraceContext::from_variables(&set).unwrap();
        let mut headers = HeaderMap::new();
        headers.insert("baggage", HeaderValue::from_static("old"));
        context.inject(&mut headers);
        assert_eq!(headers["traceparent"], PARENT);
        assert_eq!(headers["tracestate"], "vendor=1");
        assert!(!headers.contains_key("baggage"));
        assert_eq!(TraceContext::from_variables(&|_| None), None);
        assert_eq!(TraceContext::from_variables(&|_| Some("junk".into())), None);
    }
}
