//! Creates a session with `awsWebIdentity` and one with `awsAssumeRole`, and prints both as JSON. `tests/moto/run` uses it
//! with a server of AWS STS that is not podmeta's. The API server is a stub that issues a fixed token.

use anyhow::{Context as _, Result};
use axum::{Json, Router};
use clap::Parser as _;
use jiff::Timestamp;
use kube::{Client, Config};
use podmeta_metadata::dialect::Dialect;
use podmeta_metadata::role::SessionDuration;
use podmeta_metadata::workload::PodRef;
use podmeta_operator::credentials::pod_token::PodTokens;
use podmeta_operator::credentials::providers::{Providers, operator_credentials};
use podmeta_operator::credentials::request::{CloudRole, ProfileId, RoleRequest};
use podmeta_operator::credentials::settings::CredentialsArgs;
use podmeta_operator::credentials::token_policy::TokenPolicyState;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::watch;

#[derive(clap::Parser)]
struct SessionArgs {
    /// The ARN of the role.
    #[arg(long)]
    role: String,
    /// The token that the API server issues.
    #[arg(long)]
    token: String,
    #[command(flatten)]
    credentials: CredentialsArgs,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let args = SessionArgs::parse();
    let client = api_server(args.token).await?;
    let (_, policy) = watch::channel(TokenPolicyState::Enforced);
    let tokens = PodTokens::new(client, args.credentials.token_audiences.clone(), policy);
    let providers = Providers::new(&args.credentials, operator_credentials(&args.credentials), tokens);
    let role_arn = || args.role.as_str().try_into().context("--role");
    let web_identity = CloudRole::AwsWebIdentity { role_arn: role_arn()?, audience: "sts.amazonaws.com".to_owned() };
    let assume_role = CloudRole::AwsAssumeRole { role_arn: role_arn()?, external_id: "cluster/shop".to_owned() };
    let mut sessions = serde_json::Map::new();
    for role in [web_identity, assume_role] {
        let kind = role.kind().to_string();
        let request = RoleRequest {
            pod: PodRef { namespace: "shop".to_owned(), name: "web-1".to_owned(), uid: "u1".try_into()? },
            node: "n1".to_owned(),
            service_account: Some("web".to_owned()),
            profile: ProfileId { name: "web".to_owned(), uid: "p1".to_owned() },
            dialect: Dialect::Ec2,
            role,
            duration: SessionDuration::HOUR,
        };
        let result = match providers.create_session(&request, Timestamp::now()).await {
            Ok(session) => serde_json::to_value(session.credentials)?,
            Err(error) => json!({"cause": error.cause.to_string(), "error": error.detail}),
        };
        sessions.insert(kind, result);
    }
    println!("{}", serde_json::Value::from(sessions));
    Ok(())
}

/// Returns a client of a stub that issues the same token for each request.
async fn api_server(token: String) -> Result<Client> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?).parse()?;
    let response = json!({
        "kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1", "metadata": {}, "spec": {"audiences": []},
        "status": {"token": token, "expirationTimestamp": "2099-01-01T00:00:00Z"},
    });
    let router = Router::new().fallback(move || std::future::ready(Json(response.clone())));
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok(Client::try_from(Config::new(url))?)
}
