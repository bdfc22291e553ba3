//! aws-config (Rust): credentials, region and instance ID from EC2's metadata service.
//! Prints `ok NAME` or `FAIL NAME: reason` for each check.

use aws_config::imds::{Client, credentials::ImdsCredentialsProvider, region::ImdsRegionProvider};
use aws_credential_types::provider::{ProvideCredentials, error::CredentialsError};
use std::env::{args, var};
use std::error::Error;
use std::fmt::Debug;

type Check = Result<(), Box<dyn Error>>;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    match args().nth(1).as_deref() {
        Some("roleless") => report("pod without a role has no credentials", no_role().await),
        _ => {
            report("credentials, role discovered", discovered_role().await);
            report("credentials, role given", given_role().await);
            report("region", region().await);
            report("instance ID", instance_id().await);
        }
    }
}

async fn discovered_role() -> Check {
    credentials(ImdsCredentialsProvider::builder().build()).await
}

async fn given_role() -> Check {
    credentials(ImdsCredentialsProvider::builder().profile(var("EC2_ROLE")?).build()).await
}

async fn credentials(provider: ImdsCredentialsProvider) -> Check {
    let credentials = provider.provide_credentials().await?;
    equal(credentials.access_key_id(), var("EC2_ACCESS_KEY_ID")?.as_str())?;
    equal(credentials.secret_access_key(), var("EC2_SECRET_ACCESS_KEY")?.as_str())?;
    equal(credentials.session_token(), Some(var("EC2_SESSION_TOKEN")?.as_str()))
}

async fn region() -> Check {
    let region = ImdsRegionProvider::builder().build().region().await;
    equal(region.as_ref().map(AsRef::as_ref), Some(var("REGION")?.as_str()))
}

async fn instance_id() -> Check {
    let id = Client::builder().build().get("/latest/meta-data/instance-id").await?;
    let id: &str = id.as_ref();
    match id.strip_prefix("i-") {
        Some(hex) if hex.len() == 17 && hex.bytes().all(|b| b.is_ascii_hexdigit()) => Ok(()),
        _ => Err(format!("{id:?} is not an EC2 instance ID").into()),
    }
}

/// Without a role, the provider must return `CredentialsNotLoaded`, so that the chain tries the next provider.
async fn no_role() -> Check {
    match ImdsCredentialsProvider::builder().build().provide_credentials().await {
        Err(CredentialsError::CredentialsNotLoaded(_)) => Ok(()),
        other => Err(format!("expected CredentialsNotLoaded, got {other:?}").into()),
    }
}

fn equal<T: PartialEq + Debug>(got: T, expected: T) -> Check {
    if got == expected { Ok(()) } else { Err(format!("got {got:?}, expected {expected:?}").into()) }
}

fn report(name: &str, result: Check) {
    match result {
        Ok(()) => println!("ok {name}"),
        Err(error) => println!("FAIL {name}: {}", error_chain(&*error)),
    }
}

/// Formats an error and its sources on one line.
fn error_chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text.replace('\n', " ")
}
