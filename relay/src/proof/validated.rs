//! A question to a resolver whose answer must bear the signatures of the domain's zone, checked
//! here: what a resolver says that it has checked is worth as much as the way to it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use hickory_resolver::net::NetError;
use hickory_resolver::net::dnssec::DnssecDnsHandle;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::xfer::{DnsHandle, DnsResponseStream, FirstAnswer};
use hickory_resolver::proto::dnssec::TrustAnchors;
use hickory_resolver::proto::op::{DnsRequest, DnsRequestOptions, DnsResponse, Query};
use hickory_resolver::proto::rr::{Name, RecordType};
use tracing::Dispatch;
use tracing::instrument::WithSubscriber;

use super::answer;
use super::parent::{self, Word};
use super::wire::{self, Role};
use super::witness::Answer;

/// Questions to one resolver about one domain: a chain of keys has about three for each label.
const MAX_QUESTIONS: usize = 100;

/// What `resolver` says about the TXT records at `name`.
pub(super) async fn ask(resolver: SocketAddr, anchors: Arc<TrustAnchors>, name: Name) -> Answer {
    let query = Query::query(name.clone(), RecordType::TXT);
    let (result, failure) = look_up(resolver, anchors, query).await;
    match (failure, answer::of_validation(result.as_deref(), &name)) {
        // A key that did not come is no wrong key.
        (Some(why), Answer::Bogus | Answer::Silent(_)) => Answer::Silent(why),
        (_, answer) => answer,
    }
}

/// What `resolver` says about the DS records of `name`, which are its parent zone's.
pub(super) async fn ask_parent(
    resolver: SocketAddr,
    anchors: Arc<TrustAnchors>,
    name: Name,
) -> Word {
    let query = Query::query(name.clone(), RecordType::DS);
    let (result, failure) = look_up(resolver, anchors, query).await;
    match (failure, parent::of_validation(result.as_deref(), &name)) {
        (Some(why), Word::Bogus | Word::Silent(_)) => Word::Silent(why),
        (_, word) => word,
    }
}

/// The answer, and the first question that was not answered on the way to it. The validator is made
/// anew each time: it remembers by hashes that a stranger can compute, so one domain's answers must
/// not meet another's.
async fn look_up(
    resolver: SocketAddr,
    anchors: Arc<TrustAnchors>,
    query: Query,
) -> (Result<DnsResponse, NetError>, Option<String>) {
    let upstream = Upstream::new(resolver);
    let validator = DnssecDnsHandle::with_trust_anchor(upstream.clone(), anchors);
    let answered = validator.lookup(query, DnsRequestOptions::default()).first_answer();
    // The library logs what strangers send as warnings.
    let result = answered.with_subscriber(Dispatch::none()).await;
    (result, upstream.failure.get().cloned())
}

/// Asks the resolver whatever the validator wants to know.
#[derive(Clone)]
struct Upstream {
    resolver: SocketAddr,
    questions: Arc<AtomicUsize>,
    /// The first question that was not answered.
    failure: Arc<OnceLock<String>>,
}

impl Upstream {
    fn new(resolver: SocketAddr) -> Self {
        Self { resolver, questions: Arc::default(), failure: Arc::default() }
    }

    async fn answer(self, request: DnsRequest) -> Result<DnsResponse, NetError> {
        let answered = self.try_answer(&request).await;
        answered.map_err(|why| {
            let _ = self.failure.set(why.clone());
            NetError::from(why)
        })
    }

    async fn try_answer(&self, request: &DnsRequest) -> Result<DnsResponse, String> {
        if self.questions.fetch_add(1, Ordering::Relaxed) >= MAX_QUESTIONS {
            return Err(format!(
                "it takes more than {MAX_QUESTIONS} questions to check signatures"
            ));
        }
        let [query] = request.queries.as_slice() else { return Err("no question".into()) };
        let message = wire::ask(self.resolver, Role::Signatures, query)
            .await
            .map_err(|error| error.to_string())?;
        match answer::refused(message.metadata.response_code) {
            Some(why) => Err(why),
            None => DnsResponse::from_message(message).map_err(|error| error.to_string()),
        }
    }
}

impl DnsHandle for Upstream {
    type Response = DnsResponseStream;
    type Runtime = TokioRuntimeProvider;

    fn send(&self, request: DnsRequest) -> DnsResponseStream {
        Box::pin(self.clone().answer(request)).into()
    }
}
