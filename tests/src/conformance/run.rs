//! Runs the steps of one case in order against one agent.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use podmeta_metadata::dialect::Dialect;

use super::agent::CaseAgent;
use super::case::{Action, ConformanceCase, Forgery, Step, TokenStep};
use super::expect::{Expect, compare};
use super::objects::CaseObjects;
use super::saved::SavedValues;
use super::wire::{Exchange, PipeConnection};

/// Maximum number of items of a crawl. Ends a crawl of a tree that lists itself.
const MAX_ITEMS: usize = 500;

/// Maximum length of an item or listing of a crawl, in bytes. Source: aws-c-auth, source/aws_imds_client.c,
/// `IMDS_RESPONSE_SIZE_LIMIT`.
const MAX_ITEM_BYTES: usize = 65_535;

/// Runs a case.
///
/// # Errors
/// Returns the number of the failed step and the difference.
pub(super) fn run_case(cases_dir: &Path, dialect: Dialect, case: &ConformanceCase) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?;
    runtime.block_on(async {
        let mut objects = CaseObjects::read(cases_dir, &case.objects)?;
        let saved = SavedValues::predefined();
        objects.patch(&saved.fill_all(&case.patch)?)?;
        let agent = CaseAgent::start(objects)?;
        let mut run = CaseRunner { case, dialect, agent, saved, connections: BTreeMap::new() };
        for (at, step) in case.steps.iter().enumerate() {
            let result = run.step(step).await;
            result.with_context(|| format!("step {} ({})", at + 1, describe(step)))?;
        }
        Ok(())
    })
}

/// Returns a short description of a step for error messages.
fn describe(step: &Step) -> String {
    match step.action() {
        Ok(Action::Send(line)) => line.to_owned(),
        Ok(Action::Raw(bytes)) => format!("{:?}", bytes.chars().take(60).collect::<String>()),
        Ok(action) => format!("{action:?}").chars().take(80).collect(),
        Err(error) => error.to_string(),
    }
}

struct CaseRunner<'c> {
    case: &'c ConformanceCase,
    dialect: Dialect,
    agent: CaseAgent,
    saved: SavedValues,
    connections: BTreeMap<String, PipeConnection>,
}

impl CaseRunner<'_> {
    async fn step(&mut self, step: &Step) -> anyhow::Result<()> {
        match step.action()? {
            Action::Token(token) => self.token(step, token).await,
            Action::Send(line) => {
                let bytes = self.request(step, line)?;
                self.send_and_compare(step, &bytes).await
            }
            Action::Raw(text) => {
                let bytes = self.saved.bytes(text)?;
                self.send_and_compare(step, &bytes).await
            }
            Action::Crawl(directory) => self.crawl(step, directory).await,
            Action::Forge(forge) => {
                let good = String::from_utf8(self.saved.get(&forge.token)?.to_vec())?;
                self.saved.save(&forge.name, forged(&good, forge.by)?.into_bytes());
                Ok(())
            }
            Action::Wait(text) => {
                self.agent.advance_clock(seconds(text)?).await;
                Ok(())
            }
            Action::Change(patches) => self.agent.change(&self.saved.fill_all(patches)?),
            Action::RejectChange(rejected) => {
                self.agent.expect_rejection(&self.saved.fill_all(&rejected.change)?, &rejected.message)
            }
            Action::Restart(how) => self.agent.restart(how),
            Action::Rotate => self.agent.rotate_key(),
        }
    }

    async fn send_and_compare(&mut self, step: &Step, bytes: &[u8]) -> anyhow::Result<()> {
        let expect = step.expect.as_ref().context("the step has no `expect`")?;
        for time in 1..=step.times {
            let exchange = self.exchange(step, bytes, expect.status.all().len()).await?;
            compare(&exchange, expect, &self.saved).with_context(|| format!("request {time}"))?;
            self.save(expect, &exchange);
        }
        Ok(())
    }

    fn save(&mut self, expect: &Expect, exchange: &Exchange) {
        if let (Some(name), Some(response)) = (&expect.save, exchange.responses.last()) {
            self.saved.save(name, response.body.clone());
        }
    }

    async fn token(&mut self, step: &Step, token: &TokenStep) -> anyhow::Result<()> {
        let dialect = self.dialect_of(step);
        let (host, header) = (host(dialect), token_header(dialect));
        let ttl = token.ttl;
        let request = format!("PUT /latest/api/token HTTP/1.1\r\nHost: {host}\r\n{header}-ttl-seconds: {ttl}\r\n\r\n");
        let exchange = self.exchange(step, request.as_bytes(), 1).await?;
        let response = exchange.responses.first().context("no response to the token request")?;
        ensure!(response.status == 200, "token request: got status {}, expected 200", response.status);
        self.saved.save(&token.name, response.body.clone());
        Ok(())
    }

    /// Requests every path that a directory lists, recursively.
    async fn crawl(&mut self, step: &Step, directory: &str) -> anyhow::Result<()> {
        let (mut directories, mut items) = (vec![directory.to_owned()], 0);
        while let Some(directory) = directories.pop() {
            let listing = self.get(step, &directory).await?;
            for line in listing.split('\n') {
                ensure!(!line.is_empty(), "{directory} lists an empty name");
                ensure!(items < MAX_ITEMS, "the tree has more than {MAX_ITEMS} items");
                let below = match line.split_once('=') {
                    Some((index, _)) if index.bytes().all(|byte| byte.is_ascii_digit()) => format!("{index}/"),
                    _ => line.to_owned(),
                };
                let path = format!("{directory}{below}");
                items += 1;
                if path.ends_with('/') {
                    directories.push(path);
                } else {
                    self.get(step, &path).await?;
                }
            }
        }
        ensure!(items > 1, "only {items} items are listed, expected at least 2");
        Ok(())
    }

    async fn get(&mut self, step: &Step, path: &str) -> anyhow::Result<String> {
        let bytes = self.request(step, &format!("GET {path}"))?;
        let exchange = self.exchange(step, &bytes, 1).await?;
        let response = exchange.responses.first().with_context(|| format!("{path}: no response"))?;
        ensure!(response.status == 200, "{path}: got status {}, expected 200", response.status);
        let length = response.body.len();
        ensure!(length <= MAX_ITEM_BYTES, "{path}: {length} bytes, more than {MAX_ITEM_BYTES}");
        Ok(String::from_utf8_lossy(&response.body).into_owned())
    }

    /// Builds a request from its request line without version.
    fn request(&self, step: &Step, line: &str) -> anyhow::Result<Vec<u8>> {
        let mut text = format!("{line} HTTP/1.1\r\n");
        if !step.headers.iter().any(|header| header.starts_with("Host:")) {
            text.push_str(&format!("Host: {}\r\n", host(self.dialect_of(step))));
        }
        if let Some(name) = &step.with {
            text.push_str(&format!("{}: ${{{name}}}\r\n", token_header(self.dialect_of(step))));
        }
        for header in &step.headers {
            text.push_str(&format!("{header}\r\n"));
        }
        text.push_str("\r\n");
        self.saved.bytes(&text)
    }

    async fn exchange(&mut self, step: &Step, bytes: &[u8], due: usize) -> anyhow::Result<Exchange> {
        let kept = step.on.as_ref().and_then(|name| self.connections.remove(name));
        let mut connection = match kept {
            Some(connection) => connection,
            None => {
                let pod = step.pod.as_ref().unwrap_or(&self.case.pod);
                self.agent.connect(pod, self.dialect_of(step), step.over, step.user)?
            }
        };
        let exchange = connection.exchange(bytes, due).await?;
        if let Some(name) = &step.on {
            self.connections.insert(name.clone(), connection);
        }
        Ok(exchange)
    }

    fn dialect_of(&self, step: &Step) -> Dialect {
        step.dialect.unwrap_or(self.dialect)
    }
}

fn host(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Ec2 => "169.254.169.254",
        Dialect::Ecs => "100.100.100.200",
    }
}

/// Returns the token header with the capitalization of the cloud's documentation.
fn token_header(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Ec2 => "X-aws-ec2-metadata-token",
        Dialect::Ecs => "X-aliyun-ecs-metadata-token",
    }
}

/// Parses a duration such as `90s`, `15m`, `6h` or `-15m` into seconds.
fn seconds(text: &str) -> anyhow::Result<i64> {
    let (number, unit) = text.split_at_checked(text.len().saturating_sub(1)).context("the duration is empty")?;
    let unit = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => bail!("invalid duration {text}: expected a form such as 90s, 15m or 6h"),
    };
    Ok(number.parse::<i64>()? * unit)
}

/// Creates an invalid token from a valid one without the signing key. `podmeta_metadata::session` describes the layout.
fn forged(good: &str, by: Forgery) -> anyhow::Result<String> {
    let mut bytes = URL_SAFE_NO_PAD.decode(good)?;
    Ok(match by {
        Forgery::Cut => good.get(..good.len() - 1).context("the token is empty")?.to_owned(),
        Forgery::FlipMac => {
            *bytes.last_mut().context("the token is empty")? ^= 1;
            URL_SAFE_NO_PAD.encode(bytes)
        }
        Forgery::LaterExpiry => {
            let expiry = bytes.get_mut(4..8).context("the token has no expiry")?;
            let later = u32::from_be_bytes(<[u8; 4]>::try_from(&*expiry)?) + 3600;
            expiry.copy_from_slice(&later.to_be_bytes());
            URL_SAFE_NO_PAD.encode(bytes)
        }
        Forgery::Jwt => {
            let parts = [r#"{"alg":"HS256","typ":"JWT"}"#, r#"{"sub":"a","aud":"ec2","iat":0,"exp":4294967295}"#];
            let [head, claims] = parts.map(|part| URL_SAFE_NO_PAD.encode(part));
            format!("{head}.{claims}.{}", URL_SAFE_NO_PAD.encode([0; 32]))
        }
        Forgery::TooLong => "a".repeat(4096),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn duration_with_unit_and_sign_is_parsed() {
        assert_eq!(seconds("90s").unwrap(), 90);
        assert_eq!(seconds("-15m").unwrap(), -900);
        assert_eq!(seconds("6h").unwrap(), 21_600);
        for bad in ["", "5", "s", "5d", "5é"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }
}
