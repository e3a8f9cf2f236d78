//! Owns plain requests to the API server with one token: an administrator's, or a game pod's.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use ureq::Agent;
use ureq::http::Request;
use ureq::tls::{Certificate, RootCerts, TlsConfig, TlsProvider};

/// What is asked for with a merge-patch by the sidecar.
pub const SMALL_ANSWER: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json";

/// Speaks to one API server with one token.
pub struct Client {
    agent: Agent,
    server: String,
    token: String,
}

/// What the API server answered.
#[derive(Debug)]
pub struct Answer {
    /// The status line's.
    pub status: u16,
    /// Null when it is no JSON.
    pub body: Value,
    /// The body as it came.
    pub text: String,
}

impl Answer {
    /// The body of a success.
    #[track_caller]
    pub fn ok(self) -> Value {
        assert!((200..300).contains(&self.status), "status {}: {}", self.status, self.text);
        self.body
    }
}

impl Client {
    /// A client of the API server at this URL. If `connections` is 0, each request has a connection of its own.
    pub fn new(server: &str, authority_pem: &str, token: &str, connections: usize) -> Self {
        let authority = Certificate::from_pem(authority_pem.as_bytes()).expect("the authority's own PEM");
        let tls = TlsConfig::builder()
            .provider(TlsProvider::Rustls)
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .root_certs(RootCerts::new_with_certs(&[authority]))
            .build();
        let config = Agent::config_builder()
            .timeout_global(Some(Duration::from_secs(60)))
            .http_status_as_error(false)
            .max_idle_connections(connections)
            .max_idle_connections_per_host(connections)
            .max_idle_age(Duration::from_secs(3600))
            .proxy(None)
            .allow_non_standard_methods(true)
            .tls_config(tls)
            .build();
        Self { agent: config.into(), server: server.to_owned(), token: token.to_owned() }
    }

    /// Sends one request.
    ///
    /// # Errors
    /// There was no answer.
    pub fn try_send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Result<Answer, ureq::Error> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.server))
            .header("Authorization", format!("Bearer {}", self.token));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut response = match body {
            Some(body) => self.agent.run(request.body(body.to_string())?)?,
            None => self.agent.run(request.body(())?)?,
        };
        let text = response.body_mut().read_to_string()?;
        let body = serde_json::from_str(&text).unwrap_or_default();
        Ok(Answer { status: response.status().as_u16(), body, text })
    }

    /// Sends one request, and panics if there is no answer.
    #[track_caller]
    pub fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Option<&Value>) -> Answer {
        self.try_send(method, path, headers, body).unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    /// Reads an object that is there.
    #[track_caller]
    pub fn get(&self, path: &str) -> Value {
        self.send("GET", path, &[], None).ok()
    }

    /// Creates an object of which nothing may be unknown to the API server.
    #[track_caller]
    pub fn create(&self, collection: &str, manager: &str, object: &Value) -> Value {
        let path = format!("{collection}?fieldValidation=Strict&fieldManager={manager}");
        self.send("POST", &path, &[("Content-Type", "application/json")], Some(object)).ok()
    }

    /// Sends a merge-patch as a manager of this name.
    #[track_caller]
    pub fn merge_patch(&self, path: &str, manager: &str, patch: &Value) -> Answer {
        let path = format!("{path}?fieldManager={manager}");
        self.send("PATCH", &path, &[("Content-Type", "application/merge-patch+json")], Some(patch))
    }

    /// Deletes an object at once.
    #[track_caller]
    pub fn delete(&self, path: &str) {
        self.send("DELETE", &format!("{path}?gracePeriodSeconds=0"), &[], None).ok();
    }
}
