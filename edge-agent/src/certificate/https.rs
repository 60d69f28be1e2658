//! HTTPS to a CA, with bounds: one connection for each request, nothing that waits forever, nothing
//! longer than it need be.
//!
//! The library that speaks ACME brings no client here: its own sets no limit to time and size, and
//! passes on no `Retry-After` of an error, which a polite client has to keep to.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::header::{CONTENT_TYPE, HOST, HeaderValue, RETRY_AFTER, USER_AGENT};
use hyper::http::request::Parts;
use hyper::{Request, Response, Uri};
use hyper_util::rt::TokioIo;
use instant_acme::{BodyWrapper, BytesResponse, HttpClient};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// For one request with everything that it takes.
const PATIENCE: Duration = Duration::from_secs(60);
/// For a connection to one of the CA's addresses, and how many are tried.
const CONNECTING: Duration = Duration::from_secs(10);
const MAX_ADDRESSES: usize = 4;
/// The longest answer: a chain of certificates has some kilobytes.
const MAX_ANSWER: usize = 512 * 1024;
/// The largest file of certificates.
const MAX_CA_FILE: u64 = 1 << 20;

/// What the CA is told about who asks (RFC 8555 section 6.1).
const AGENT: &str = concat!("sealpost-agent/", env!("CARGO_PKG_VERSION"), " instant-acme/0.8");

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum HttpsError {
    /// The URL is not usable.
    #[error("`{0}` is not an https:// URL")]
    Url(String),
    /// No address of the CA takes a connection.
    #[error("the CA at {0} cannot be reached: {1}")]
    Unreachable(String, io::Error),
    /// It is not who it should be, or its certificate is not trusted.
    #[error(
        "the CA at {0} does not prove who it is: {1}; a CA of your own needs `ca`, the file with the \
         certificate that its HTTPS server is trusted by"
    )]
    Tls(String, io::Error),
    /// Something that is no HTTP.
    #[error("the CA at {0} does not answer as a web server: {1}")]
    Http(String, hyper::Error),
    /// An answer that is too long, or broke off.
    #[error("the answer of the CA at {0} cannot be read: {1}")]
    Body(String, String),
    /// An answer without an explanation.
    #[error("the CA at {0} answered with the HTTP status {1}")]
    Status(String, u16),
    /// It takes too long.
    #[error("the CA at {0} did not answer within {s} s", s = PATIENCE.as_secs())]
    Late(String),
}

/// Why no CA can be trusted.
#[derive(Debug, thiserror::Error)]
pub enum CaFileError {
    /// The file cannot be read.
    #[error("`ca`: {0}: {1}")]
    Read(String, io::Error),
    /// It has no certificate, or one that cannot be used.
    #[error("`ca`: {0} has to hold certificates in PEM: {1}")]
    Content(String, String),
}

/// A client; clones share what the CA said about waiting.
#[derive(Clone)]
pub struct Https {
    connector: TlsConnector,
    not_before: Arc<AtomicU64>,
}

impl fmt::Debug for Https {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Https").finish_non_exhaustive()
    }
}

impl Https {
    /// A client that trusts the public CAs, or those in the file `ca` alone.
    pub fn new(ca: Option<&Path>) -> Result<Self, CaFileError> {
        let mut roots = RootCertStore::empty();
        match ca {
            None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
            Some(path) => {
                for certificate in certificates(path)? {
                    roots.add(certificate).map_err(|error| {
                        CaFileError::Content(path.display().to_string(), error.to_string())
                    })?;
                }
            }
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider supports TLS 1.2 and 1.3")
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self { connector: Arc::new(config).into(), not_before: Arc::default() })
    }

    /// Until when the CA wants not to be asked, in seconds since 1970; taken once.
    pub fn told_to_wait(&self) -> Option<u64> {
        Some(self.not_before.swap(0, Ordering::Relaxed)).filter(|at| *at > 0)
    }

    /// Gets `url`.
    pub async fn get(&self, url: &str) -> Result<Bytes, HttpsError> {
        let request = Request::get(url).body(BodyWrapper::default());
        let request = request.map_err(|_| HttpsError::Url(url.into()))?;
        let (host, response) = self.ask(request).await?;
        match response.status().is_success() {
            true => Ok(response.into_body()),
            false => Err(HttpsError::Status(host, response.status().as_u16())),
        }
    }

    async fn ask(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Result<(String, Response<Bytes>), HttpsError> {
        let (mut parts, body) = request.into_parts();
        let (host, port) = target(&parts.uri)?;
        let authority = parts.uri.authority().map(|it| it.as_str().to_owned()).unwrap_or_default();
        prepare(&mut parts, &authority)?;
        let request = Request::from_parts(parts, body);
        match timeout(PATIENCE, self.send(&host, port, request)).await {
            Ok(answer) => Ok((authority, answer?)),
            Err(_) => Err(HttpsError::Late(authority)),
        }
    }

    async fn send(
        &self,
        host: &str,
        port: u16,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Result<Response<Bytes>, HttpsError> {
        let what = || host.to_owned();
        let tcp = connect(host, port).await.map_err(|e| HttpsError::Unreachable(what(), e))?;
        let name = ServerName::try_from(what()).map_err(|_| HttpsError::Url(what()))?;
        let tls = self.connector.connect(name, tcp).await;
        let tls = tls.map_err(|error| HttpsError::Tls(what(), error))?;
        let http = |error| HttpsError::Http(what(), error);
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(tls)).await.map_err(http)?;
        let exchange = async {
            let response = sender.send_request(request).await.map_err(http)?;
            let (parts, body) = response.into_parts();
            let body = Limited::new(body, MAX_ANSWER).collect().await;
            let body = body.map_err(|error| HttpsError::Body(what(), error.to_string()))?;
            Ok(Response::from_parts(parts, body.to_bytes()))
        };
        // Both are part of this request: when it is dropped, so is the connection.
        let driving = async {
            let _ = connection.await;
            std::future::pending::<Infallible>().await
        };
        let response = tokio::select! {
            response = exchange => response?,
            never = driving => match never {},
        };
        if !response.status().is_success()
            && let Some(at) = response.headers().get(RETRY_AFTER).and_then(moment)
        {
            self.not_before.fetch_max(at, Ordering::Relaxed);
        }
        Ok(response)
    }
}

impl HttpClient for Https {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, instant_acme::Error>> + Send>> {
        let client = self.clone();
        Box::pin(async move {
            let other = |error: HttpsError| instant_acme::Error::Other(Box::new(error));
            let (host, response) = client.ask(request).await.map_err(other)?;
            let (parts, body) = response.into_parts();
            let kind = parts.headers.get(CONTENT_TYPE).and_then(|it| it.to_str().ok());
            if !parts.status.is_success() && !kind.is_some_and(|kind| kind.contains("json")) {
                return Err(other(HttpsError::Status(host, parts.status.as_u16())));
            }
            Ok(BytesResponse { parts, body: Box::new(body) })
        })
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, CaFileError> {
    let name = || path.display().to_string();
    let read = |error| CaFileError::Read(name(), error);
    let size = std::fs::metadata(path).map_err(read)?.len();
    if size > MAX_CA_FILE {
        return Err(CaFileError::Content(name(), "it is far too large".into()));
    }
    let text = std::fs::read(path).map_err(read)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(CaFileError::Content(name(), "there is none".into())),
        Err(error) => Err(CaFileError::Content(name(), format!("{error:?}"))),
    }
}

/// Host, without brackets, and port.
fn target(uri: &Uri) -> Result<(String, u16), HttpsError> {
    let wrong = || HttpsError::Url(uri.to_string());
    if uri.scheme_str() != Some("https") {
        return Err(wrong());
    }
    let host = uri.host().ok_or_else(wrong)?.trim_matches(['[', ']']);
    Ok((host.to_owned(), uri.port_u16().unwrap_or(443)))
}

/// What HTTP/1.1 wants to have in a request to the server itself.
fn prepare(parts: &mut Parts, authority: &str) -> Result<(), HttpsError> {
    let wrong = || HttpsError::Url(authority.into());
    parts.headers.insert(HOST, HeaderValue::from_str(authority).map_err(|_| wrong())?);
    parts.headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
    let path = parts.uri.path_and_query().map_or("/", |it| it.as_str());
    parts.uri = path.parse().map_err(|_| wrong())?;
    Ok(())
}

async fn connect(host: &str, port: u16) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "it has no address");
    for address in lookup_host((host, port)).await?.take(MAX_ADDRESSES) {
        match timeout(CONNECTING, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => last = error,
            Err(_) => last = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(last)
}

/// A `Retry-After` as seconds since 1970 (RFC 9110 section 10.2.3).
fn moment(value: &HeaderValue) -> Option<u64> {
    let text = value.to_str().ok()?.trim();
    let since = |at: SystemTime| at.duration_since(UNIX_EPOCH).ok().map(|it| it.as_secs());
    match text.parse::<u64>() {
        Ok(seconds) => Some(since(SystemTime::now())?.saturating_add(seconds)),
        Err(_) => since(httpdate::parse_http_date(text).ok()?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_https_is_spoken() {
        let uri = |text: &str| text.parse::<Uri>().unwrap();
        assert_eq!(target(&uri("https://ca.example/x")).unwrap(), ("ca.example".into(), 443));
        assert_eq!(target(&uri("https://[::1]:14000/dir")).unwrap(), ("::1".into(), 14000));
        assert!(target(&uri("http://ca.example/x")).is_err());
        assert!(target(&uri("/x")).is_err());
    }

    #[test]
    fn a_wait_is_told_in_seconds_or_as_a_date() {
        let moment = |text: &str| moment(&HeaderValue::from_str(text).unwrap());
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        assert!(moment("120").is_some_and(|at| (now + 120..now + 130).contains(&at)));
        assert_eq!(moment("Thu, 01 Jan 1970 00:01:00 GMT"), Some(60));
        assert_eq!(moment("soon"), None);
        assert_eq!(moment("18446744073709551615"), Some(u64::MAX));
    }

    #[test]
    fn a_file_without_certificates_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ca.pem");
        let error = |path: &Path| Https::new(Some(path)).unwrap_err().to_string();
        assert!(error(&path).contains("ca.pem"));
        std::fs::write(&path, "nothing").unwrap();
        assert!(error(&path).contains("certificates in PEM"));
        assert!(Https::new(None).is_ok());
    }
}
