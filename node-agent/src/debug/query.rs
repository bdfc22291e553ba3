//! The `query` command: a client of the debug socket.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::TokioIo;
use podmeta_metadata::dialect::Dialect;
use podmeta_metadata::request::TOKEN_PATH;
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;

use crate::debug::{DEFAULT_PATH, parse_dialect};

/// Queries the agent on this node as one of its pods, through the debug socket.
///
/// Requests a session token first and sends it with each path.
#[derive(Clone, Debug, clap::Args)]
pub struct QueryArgs {
    /// The pod.
    #[arg(value_name = "NAMESPACE/NAME|UID")]
    pub pod: String,

    /// The dialect: ec2 or ecs.
    #[arg(value_parser = |name: &str| parse_dialect(name).map_err(|error| error.to_string()))]
    pub dialect: Dialect,

    /// Paths to get, such as /latest/meta-data/.
    #[arg(value_name = "PATH", required = true)]
    pub paths: Vec<String>,

    /// Sends the requests without a session token.
    #[arg(long)]
    pub tokenless: bool,

    /// Prints the status line and the headers too.
    #[arg(short, long)]
    pub include: bool,

    /// The debug socket of the agent.
    #[arg(long, default_value = DEFAULT_PATH, value_name = "PATH")]
    pub socket: PathBuf,
}

/// Runs the command. Returns a failure code if a response is not successful.
///
/// # Errors
/// If the agent cannot be reached.
pub fn query(args: &QueryArgs) -> Result<ExitCode> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(run(args))
}

async fn run(args: &QueryArgs) -> Result<ExitCode> {
    let headers = args.dialect.protocol().token_headers().filter(|_| !args.tokenless);
    let mut token = None;
    if let Some(headers) = headers {
        let request = Request::put(TOKEN_PATH).header(&headers.ttl, "60");
        let (head, body) = send(args, request).await?;
        if !head.status().is_success() {
            eprintln!("cannot get a session token: {}", head.status());
            print(args, &head, &body)?;
            return Ok(ExitCode::FAILURE);
        }
        token = Some((&headers.token, body));
    }
    let mut code = ExitCode::SUCCESS;
    for path in &args.paths {
        let mut request = Request::get(path);
        if let Some((header, token)) = &token {
            request = request.header(*header, token.as_ref());
        }
        let (head, body) = send(args, request).await?;
        print(args, &head, &body)?;
        if !head.status().is_success() {
            eprintln!("{}", head.status());
            code = ExitCode::FAILURE;
        }
    }
    Ok(code)
}

fn print(args: &QueryArgs, head: &Response<()>, body: &[u8]) -> Result<()> {
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    if args.include {
        writeln!(out, "{:?} {}", head.version(), head.status())?;
        for (name, value) in head.headers() {
            writeln!(out, "{name}: {}", String::from_utf8_lossy(value.as_bytes()))?;
        }
        writeln!(out)?;
    }
    out.write_all(body)?;
    Ok(out.flush()?)
}

pub(super) async fn send(args: &QueryArgs, request: http::request::Builder) -> Result<(Response<()>, Bytes)> {
    let stream = UnixStream::connect(&args.socket).await;
    let mut stream = stream.with_context(|| {
        format!("cannot connect to {}; the agent must run with --debug-socket", args.socket.display())
    })?;
    stream.write_all(format!("{} {}\n", args.pod, args.dialect).as_bytes()).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let request = request.header("host", host(args.dialect)).body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await;
    let response = response.context("the agent closed the connection without a response; see its log")?;
    let (head, body) = response.into_parts();
    let body = body.collect().await?.to_bytes();
    connection.abort();
    Ok((Response::from_parts(head, ()), body))
}

/// Returns the host that clients of a dialect send: its IPv4 service address.
pub(super) fn host(dialect: Dialect) -> String {
    let addresses = dialect.protocol().selection().addresses;
    addresses.iter().find(|address| address.is_ipv4()).map_or_else(String::new, ToString::to_string)
}
