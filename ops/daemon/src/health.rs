//! `/livez`, `/readyz` and `/metrics` over HTTP on an address that is loopback.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context;
use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus::{Registry, TextEncoder};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::config::LoopbackAddr;

/// Tells why the process is not ready; empty when it is.
pub trait Readiness: Send + Sync + 'static {
    /// What is missing, a sentence each.
    fn missing(&self) -> Vec<String>;
}

impl<F: Fn() -> Vec<String> + Send + Sync + 'static> Readiness for F {
    fn missing(&self) -> Vec<String> {
        self()
    }
}

/// The HTTP server of a daemon.
pub struct Health {
    listener: TcpListener,
    router: Router,
}

impl Health {
    /// Binds `address`: what stands there is for the operator alone.
    /// `refresh` is called before each look at the metrics, to set gauges that nothing updates.
    pub async fn bind(
        address: LoopbackAddr,
        registry: Registry,
        refresh: impl Fn() + Send + Sync + 'static,
        readiness: impl Readiness,
    ) -> anyhow::Result<Self> {
        let address = address.get();
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("cannot listen on {address}"))?;
        let metrics = Arc::new(move || {
            refresh();
            metrics(&registry)
        });
        let readiness = Arc::new(readiness);
        let router = Router::new()
            .route("/livez", get(async || "alive\n"))
            .route("/readyz", get(async move || readyz(readiness.missing())))
            .route("/metrics", get(async move || metrics()));
        Ok(Self { listener, router })
    }

    /// Adds the routes of one program.
    pub fn merge(mut self, routes: Router) -> Self {
        self.router = self.router.merge(routes);
        self
    }

    /// The bound address.
    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `stop`.
    pub async fn run(self, stop: CancellationToken) -> std::io::Result<()> {
        let server = axum::serve(self.listener, self.router);
        tokio::select! {
            () = stop.cancelled() => Ok(()),
            result = server.into_future() => result,
        }
    }
}

fn readyz(missing: Vec<String>) -> impl IntoResponse {
    if missing.is_empty() {
        (StatusCode::OK, "ready\n".to_owned())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, missing.join("\n") + "\n")
    }
}

fn metrics(registry: &Registry) -> Response {
    match TextEncoder::new().encode_to_string(&registry.gather()) {
        Ok(text) => (StatusCode::OK, [(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text)
            .into_response(),
        Err(e) => (StatusCode::INTERNAL_SERVER_ERROR, e.to_string()).into_response(),
    }
}
