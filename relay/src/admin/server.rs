//! Answers on the live socket: a few at once, each for a short time.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::{MethodRouter, get};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde::Serialize;
use tokio::net::UnixStream;
use tokio::sync::Semaphore;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::{AdminSocket, Live};

/// Connections at once; others wait.
const CONNECTIONS: usize = 16;
/// For one question and its answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long to wait when the system has no more file descriptors.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);

/// Answers until `stop`.
pub async fn serve(socket: AdminSocket, live: Arc<Live>, stop: CancellationToken) {
    let routes = routes(&live);
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    // Dropping it, at the end, ends what is under way.
    let mut answers = JoinSet::new();
    let accepting = async {
        loop {
            let Ok(place) = places.clone().acquire_owned().await else { return };
            match socket.listener.accept().await {
                Ok((stream, _)) => {
                    let routes = routes.clone();
                    answers.spawn(async move {
                        answer(stream, routes).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    debug!(%error, "the operator's socket cannot accept");
                    sleep(EXHAUSTED_PAUSE).await;
                }
            }
            while answers.try_join_next().is_some() {}
        }
    };
    let _ = stop.run_until_cancelled(accepting).await;
}

async fn answer(stream: UnixStream, routes: Router) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).keep_alive(false);
    let service = TowerToHyperService::new(routes);
    let served = timeout(PATIENCE, http.serve_connection(TokioIo::new(stream), service)).await;
    if !matches!(served, Ok(Ok(()))) {
        debug!("a question on the operator's socket was broken off");
    }
}

fn routes(live: &Arc<Live>) -> Router {
    Router::new()
        .route("/status", asked(live, Live::status))
        .route("/boxes", asked(live, Live::boxes))
        .route("/sessions", asked(live, Live::sessions))
}

/// Answers with `what`, made apart from the thread that carries mail: there may be many boxes or
/// sessions to tell of.
fn asked<T: Serialize + 'static>(live: &Arc<Live>, what: fn(&Live) -> T) -> MethodRouter {
    let live = live.clone();
    get(move || {
        let live = live.clone();
        async move {
            match spawn_blocking(move || serde_json::to_vec(&what(&live))).await {
                Ok(Ok(json)) => {
                    ([(header::CONTENT_TYPE, "application/json")], json).into_response()
                }
                _ => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
            }
        }
    })
}
