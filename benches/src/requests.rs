//! The measured kinds of requests, and the recording of the agent's responses for the baseline.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};

use crate::baseline::RecordedResponse;
use crate::load::{LoadConnection, RequestPattern};

const TOKEN_PATH: &str = "/latest/api/token";
pub(crate) const LEAF: &str = "/latest/meta-data/instance-id";
const LISTING: &str = "/latest/meta-data/";
const USER_DATA: &str = "/latest/user-data";
const CREDENTIALS: &str = "/latest/meta-data/iam/security-credentials/web-role";

/// A kind of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RequestKind {
    /// One item with a token, on persistent connections.
    Leaf,
    /// A token PUT, then one item, each on a new connection, as in a shell script.
    TokenThenLeaf,
    /// The listing of `meta-data/`, on persistent connections.
    Listing,
    /// Credentials, on persistent connections.
    Credentials,
}

impl RequestKind {
    pub(crate) const ALL: [Self; 4] = [Self::Leaf, Self::TokenThenLeaf, Self::Listing, Self::Credentials];

    /// Returns the name in the tables.
    #[must_use]
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Leaf => "leaf GET",
            Self::TokenThenLeaf => "token PUT + leaf GET",
            Self::Listing => "listing",
            Self::Credentials => "credentials",
        }
    }

    /// Returns the requests that a client repeats.
    #[must_use]
    pub(crate) fn pattern(self, token: &str) -> RequestPattern {
        match self {
            Self::Leaf => RequestPattern::Persistent(get(LEAF, token)),
            Self::Listing => RequestPattern::Persistent(get(LISTING, token)),
            Self::Credentials => RequestPattern::Persistent(get(CREDENTIALS, token)),
            Self::TokenThenLeaf => RequestPattern::TokenThenGet {
                put: put(),
                get: format!("GET {LEAF} HTTP/1.1\r\nHost: 169.254.169.254\r\nX-aws-ec2-metadata-token: ").into_bytes(),
            },
        }
    }
}

/// Returns a request for the user data.
#[must_use]
pub(crate) fn user_data_request(token: &str) -> Vec<u8> {
    get(USER_DATA, token)
}

fn get(path: &str, token: &str) -> Vec<u8> {
    // The headers of an SDK.
    format!(
        "GET {path} HTTP/1.1\r\nHost: 169.254.169.254\r\nUser-Agent: aws-sdk-rust/1.3 os/linux lang/rust/1.95\r\n\
         Accept: */*\r\nx-aws-ec2-metadata-token: {token}\r\n\r\n"
    )
    .into_bytes()
}

fn put() -> Vec<u8> {
    format!(
        "PUT {TOKEN_PATH} HTTP/1.1\r\nHost: 169.254.169.254\r\nContent-Length: 0\r\n\
         X-aws-ec2-metadata-token-ttl-seconds: 21600\r\n\r\n"
    )
    .into_bytes()
}

/// Requests a token.
///
/// # Errors
/// If the status is not 200.
pub(crate) async fn token(server: SocketAddr) -> Result<String> {
    Ok(send(server, TOKEN_PATH, &put()).await?.body)
}

/// Sends a token request and a request for a leaf, a listing and credentials to the agent. Returns the token and the responses.
///
/// # Errors
/// If a status is not 200.
pub(crate) async fn record(agent: SocketAddr) -> Result<(String, Vec<RecordedResponse>)> {
    let mut responses = vec![send(agent, TOKEN_PATH, &put()).await?];
    let token = responses.first().map(|response| response.body.clone()).unwrap_or_default();
    for path in [LEAF, LISTING, CREDENTIALS] {
        responses.push(send(agent, path, &get(path, &token)).await?);
    }
    Ok((token, responses))
}

/// Sends a request for the user data to the agent. Returns the response.
///
/// # Errors
/// If the status is not 200.
pub(crate) async fn record_user_data(agent: SocketAddr, token: &str) -> Result<RecordedResponse> {
    send(agent, USER_DATA, &user_data_request(token)).await
}

/// Sends a request for a path. Returns the response.
///
/// # Errors
/// If the status is not 200.
pub(crate) async fn send(server: SocketAddr, path: &str, request: &[u8]) -> Result<RecordedResponse> {
    let mut connection = LoadConnection::open(server).await?;
    let response = connection.send(request).await?;
    ensure!(response.status == 200, "{path} returned {}", response.status);
    let head = String::from_utf8(connection.head(&response).to_vec())?;
    let headers = head.trim_end().split("\r\n").skip(1).map(|line| {
        let (name, value) = line.split_once(": ").context("a header has no colon")?;
        Ok((name.to_owned(), value.to_owned()))
    });
    let mut headers = headers.collect::<Result<Vec<_>>>()?;
    headers.retain(|(name, _)| name != "Date"); // the baseline's hyper adds its own
    Ok(RecordedResponse {
        path: path.to_owned(),
        headers,
        body: String::from_utf8(connection.body(&response).to_vec())?,
    })
}
