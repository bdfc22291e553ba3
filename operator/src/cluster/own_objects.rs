//! The operator's own Secrets, which its replicas share, and the ConfigMaps in which it publishes certificates. Replicas
//! that start at the same time agree: the first write wins.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use backon::{ConstantBuilder, Retryable as _};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::Client;
use kube::api::{Api, ObjectMeta, Patch, PatchParams, PostParams};
use serde_json::json;

use super::{ApiTimeout, FIELD_MANAGER};
use crate::text::format_object;

/// The timeout of one attempt during startup.
const START_TIMEOUT: Duration = Duration::from_secs(10);

/// The delay between attempts during startup.
const RETRY_DELAY: Duration = Duration::from_secs(2);

/// The maximum number of attempts to write a Secret that other replicas write at the same time.
const MAX_WRITE_ATTEMPTS: usize = 5;

/// The data of a Secret that the operator owns.
pub type OwnSecretData = BTreeMap<String, ByteString>;

/// Repeats an attempt while the API server is unavailable: the operator can start before the API server. `action` is the
/// action for the log, such as `load the serving certificate`.
///
/// # Errors
/// If the API server returns another error.
pub async fn retry_while_unavailable<T, F>(action: &str, attempt: impl Fn() -> F) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    let attempt = || async { tokio::time::timeout(START_TIMEOUT, attempt()).await.map_err(|_| ApiTimeout)? };
    let backoff = ConstantBuilder::default().with_delay(RETRY_DELAY).without_max_times();
    let log = |error: &anyhow::Error, _| {
        tracing::warn!(error = format!("{error:#}"), "cannot {action}: the API server is unavailable; retrying")
    };
    attempt.retry(backoff).when(is_unavailable).notify(log).await
}

/// Returns true if the API server is unreachable, too slow or overloaded.
fn is_unavailable(error: &anyhow::Error) -> bool {
    match error.downcast_ref::<kube::Error>() {
        Some(kube::Error::Api(status)) => status.code >= 500 || status.code == 429,
        Some(kube::Error::SerdeError(_)) => false,
        Some(_) => true,
        None => error.is::<ApiTimeout>(),
    }
}

/// Reads a `kubernetes.io/tls` Secret and writes it if necessary. `update` gets the current data, and returns the data to
/// write, if any, and a value. It is called again if another replica writes at the same time.
///
/// # Errors
/// If the Secret cannot be read or written, or `update` fails.
pub async fn update_tls_secret<T>(
    client: &Client,
    namespace: &str,
    name: &str,
    update: impl Fn(Option<OwnSecretData>) -> Result<(Option<OwnSecretData>, T)>,
) -> Result<T> {
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let object = || format!("Secret {namespace}/{name}");
    for _ in 0..MAX_WRITE_ATTEMPTS {
        let current = api.get_opt(name).await.with_context(object)?;
        let (data, value) = update(current.as_ref().and_then(|secret| secret.data.clone())).with_context(object)?;
        let Some(data) = data else { return Ok(value) };
        let written = match current {
            Some(mut secret) => {
                secret.data = Some(data);
                api.replace(name, &PostParams::default(), &secret).await
            }
            None => {
                let metadata = ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
                let type_ = Some("kubernetes.io/tls".to_owned());
                let secret = Secret { metadata, data: Some(data), type_, ..Secret::default() };
                api.create(&PostParams::default(), &secret).await
            }
        };
        match written {
            Ok(_) => return Ok(value),
            // Another replica wrote first: use its data.
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => return Err(error).with_context(object),
        }
    }
    bail!("{}: another replica changed it during each of {MAX_WRITE_ATTEMPTS} attempts to write it", object())
}

/// Publishes a text in a ConfigMap, unless the ConfigMap already holds it.
///
/// # Errors
/// If the ConfigMap cannot be read or written.
pub async fn publish_config_map(client: &Client, namespace: &str, name: &str, key: &str, text: &str) -> Result<()> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let object = || format!("ConfigMap {namespace}/{name}");
    let current = api.get_opt(name).await.with_context(object)?;
    if current.is_some_and(|map| map.data.is_some_and(|data| data.get(key).is_some_and(|known| known == text))) {
        return Ok(());
    }
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {key: text}});
    let patch = api.patch(name, &PatchParams::apply(FIELD_MANAGER).force(), &Patch::Apply(&map)).await;
    patch.with_context(object)?;
    tracing::info!(config_map = %format_object(Some(namespace), name), key, "published a ConfigMap");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_an_unavailable_api_server_are_retried() {
        let api_error = |code: u16| kube::Error::Api(Box::new(kube::core::Status::failure("no", "No").with_code(code)));
        let error = |error: kube::Error| anyhow::Error::from(error).context("Secret a/b").context("more");
        for (code, retries) in [(401, false), (403, false), (429, true), (500, true), (503, true)] {
            assert_eq!(is_unavailable(&error(api_error(code))), retries, "{code}");
        }
        assert!(is_unavailable(&error(kube::Error::Service("connection refused".into()))));
        assert!(is_unavailable(&anyhow::Error::from(ApiTimeout).context("Secret a/b")));
        assert!(!is_unavailable(&anyhow::anyhow!("the Secret has no tls.crt and tls.key")));
    }
}
