//! A Unix socket that pods are asked through for a look: off unless its path is given, and for the agent's own user alone.
//! A connection says first which pod it is, on a line of its own, as a pod's link would; then it is HTTP as any other.

use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::TokioIo;
use podmeta_metadata::dialect::Dialect;
use podmeta_metadata::names::PodUid;
use podmeta_metadata::request::{Family, TOKEN_PATH};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};

use crate::edge::{Arrival, Server};
use crate::serve::node::Node;

/// The longest first line, in bytes: two names and a dialect.
const MAX_LINE: usize = 600;
/// How long the first line may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Opens the socket. One that an agent before left is replaced.
///
/// # Errors
/// If it cannot be made.
pub fn bind(path: &Path) -> Result<UnixListener> {
    let bound = || -> std::io::Result<UnixListener> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        Ok(listener)
    };
    bound().with_context(|| format!("cannot make the socket {} (--ask-socket)", path.display()))
}

/// Serves what connects, for ever.
pub async fn serve(listener: UnixListener, server: Server, node: Arc<Node>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(connection(stream, server.clone(), Arc::clone(&node)))),
            Err(error) => {
                tracing::warn!(%error, "a connection to the socket for asking could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn connection(mut stream: UnixStream, server: Server, node: Arc<Node>) {
    let line = tokio::time::timeout(PATIENCE, first_line(&mut stream)).await;
    let Ok(Ok(line)) = line else { return };
    match arrival(&line, &node) {
        Ok(arrival) => server.serve(stream, arrival).await,
        Err(error) => tracing::warn!("the socket for asking was asked for {line:?}: {error:#}"),
    }
}

/// Byte by byte, so that nothing of what follows is taken.
async fn first_line(stream: &mut UnixStream) -> Result<String> {
    let mut line = Vec::new();
    loop {
        match stream.read_u8().await? {
            b'\n' => return Ok(String::from_utf8(line)?),
            byte => line.push(byte),
        }
        ensure!(line.len() <= MAX_LINE, "the first line is too long");
    }
}

/// `NAMESPACE/NAME DIALECT`, or a UID in place of the name.
fn arrival(line: &str, node: &Node) -> Result<Arrival> {
    let (pod, dialect) = line.split_once(' ').context("it is not like shop/web ec2")?;
    let dialect = dialect_of(dialect)?;
    let pod = match node.find(pod) {
        Some(uid) => uid,
        // A pod that is not known is answered as one, whatever it is called.
        None => PodUid::try_from(pod.replace('/', "-")).map_err(|error| anyhow::anyhow!("{error}"))?,
    };
    let service = dialect.service_address(Ipv4Addr::UNSPECIFIED.into());
    Ok(Arrival { pod, service, family: Family::Ipv4, header_check: None, peer: None })
}

fn dialect_of(word: &str) -> Result<Dialect> {
    Dialect::from_name(word).with_context(|| format!("{word:?} is no dialect: ec2 or ecs"))
}

/// Asks the agent on this node as one of its pods, with a session token.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The pod, by namespace and name or by its UID.
    #[arg(value_name = "NAMESPACE/NAME|UID")]
    pub pod: String,

    /// In which dialect: ec2 or ecs.
    #[arg(value_parser = |word: &str| dialect_of(word).map_err(|error| error.to_string()))]
    pub dialect: Dialect,

    /// What to ask for, such as /latest/meta-data/.
    #[arg(value_name = "PATH", required = true)]
    pub paths: Vec<String>,

    /// Asks without a session token.
    #[arg(long)]
    pub tokenless: bool,

    /// Prints the status and the headers too.
    #[arg(short, long)]
    pub include: bool,

    /// The agent's socket for asking.
    #[arg(long, default_value = super::ASK_SOCKET, value_name = "PATH")]
    pub socket: PathBuf,
}

/// Asks, and prints the answers. One that is none of success is an exit code.
///
/// # Errors
/// If the agent cannot be asked.
pub fn main(args: &Args) -> Result<ExitCode> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(ask(args))
}

async fn ask(args: &Args) -> Result<ExitCode> {
    let headers = args.dialect.protocol().token_headers().filter(|_| !args.tokenless);
    let mut token = None;
    if let Some(headers) = headers {
        let request = Request::put(TOKEN_PATH).header(&headers.ttl, "60");
        let (head, body) = send(args, request).await?;
        if !head.status().is_success() {
            eprintln!("no session token: {}", head.status());
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

fn print(args: &Args, head: &Response<()>, body: &[u8]) -> Result<()> {
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

async fn send(args: &Args, request: http::request::Builder) -> Result<(Response<()>, Bytes)> {
    let stream = UnixStream::connect(&args.socket).await;
    let mut stream = stream.with_context(|| {
        format!("cannot connect to {}; the agent must run with --ask-socket", args.socket.display())
    })?;
    stream.write_all(format!("{} {}\n", args.pod, args.dialect).as_bytes()).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let request = request.header("host", "podmeta").body(Empty::<Bytes>::new())?;
    let answered = sender.send_request(request).await;
    let Ok(answer) = answered else {
        bail!("the agent closed the connection without an answer");
    };
    let (head, body) = answer.into_parts();
    let body = body.collect().await?.to_bytes();
    connection.abort();
    Ok((Response::from_parts(head, ()), body))
}
