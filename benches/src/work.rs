//! What is asked for, and what the agent answers, recorded for the floor.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};

use crate::floor::Recorded;
use crate::load::{Connection, Shape};

const TOKEN_PATH: &str = "/latest/api/token";
const LEAF: &str = "/latest/meta-data/instance-id";
const LISTING: &str = "/latest/meta-data/";
const CREDENTIALS: &str = "/latest/meta-data/iam/security-credentials/web-role";

/// A kind of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// One item, with a token, on kept connections.
    Leaf,
    /// A token, then an item, each on a new connection: what a shell script does.
    TokenThenLeaf,
    /// The listing of `meta-data/`, on kept connections.
    Listing,
    /// Credentials, on kept connections.
    Credentials,
}

impl Work {
    /// All of them.
    pub(crate) const ALL: [Self; 4] = [Self::Leaf, Self::TokenThenLeaf, Self::Listing, Self::Credentials];

    /// What a table calls it.
    #[must_use]
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Leaf => "leaf GET",
            Self::TokenThenLeaf => "token PUT + leaf GET",
            Self::Listing => "listing",
            Self::Credentials => "credentials",
        }
    }

    /// The requests of it, with a token where they need one.
    #[must_use]
    pub(crate) fn shape(self, token: &str) -> Shape {
        match self {
            Self::Leaf => Shape::Kept(get(LEAF, token)),
            Self::Listing => Shape::Kept(get(LISTING, token)),
            Self::Credentials => Shape::Kept(get(CREDENTIALS, token)),
            Self::TokenThenLeaf => Shape::TokenThenGet {
                put: put(),
                get: format!("GET {LEAF} HTTP/1.1\r\nHost: 169.254.169.254\r\nX-aws-ec2-metadata-token: ").into_bytes(),
            },
        }
    }
}

fn get(path: &str, token: &str) -> Vec<u8> {
    // The headers of a usual SDK.
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

/// Asks a server for a token.
///
/// # Errors
/// If it gives none.
pub(crate) async fn token(server: SocketAddr) -> Result<String> {
    Ok(ask(server, TOKEN_PATH, &put()).await?.body)
}

/// Asks the agent for everything that is asked for, and keeps the answers.
///
/// # Errors
/// If one of them is not 200.
pub(crate) async fn record(agent: SocketAddr) -> Result<(String, Vec<Recorded>)> {
    let mut answers = vec![ask(agent, TOKEN_PATH, &put()).await?];
    let token = answers.first().map(|answer| answer.body.clone()).unwrap_or_default();
    for path in [LEAF, LISTING, CREDENTIALS] {
        answers.push(ask(agent, path, &get(path, &token)).await?);
    }
    Ok((token, answers))
}

async fn ask(server: SocketAddr, path: &str, request: &[u8]) -> Result<Recorded> {
    let mut connection = Connection::open(server).await?;
    let answer = connection.ask(request).await?;
    ensure!(answer.status == 200, "{path} was answered with {}", answer.status);
    let head = String::from_utf8(connection.head(&answer).to_vec())?;
    let headers = head.trim_end().split("\r\n").skip(1).map(|line| {
        let (name, value) = line.split_once(": ").context("a header has no colon")?;
        Ok((name.to_owned(), value.to_owned()))
    });
    let mut headers = headers.collect::<Result<Vec<_>>>()?;
    headers.retain(|(name, _)| name != "Date"); // hyper writes its own
    Ok(Recorded { path: path.to_owned(), headers, body: String::from_utf8(connection.body(&answer).to_vec())? })
}
