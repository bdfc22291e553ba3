//! Keeps what replicas share in Secrets of the operator's namespace, and publishes what others may know of it in
//! ConfigMaps. Replicas that begin at once agree: whoever writes first has written for all.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use arc_swap::ArcSwap;
use backon::{ConstantBuilder, Retryable as _};
use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{Api, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt as _};
use podmeta_service::identity::Identity;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use crate::report::MANAGER;
use crate::tls::{Material, renewed};

/// How often certificates are looked at: what another replica renewed is served from then on here too.
const EVERY: Duration = Duration::from_secs(30);

/// How long the API server may take until the operator has what it begins with, and how long after that it is asked again.
const ANSWER: Duration = Duration::from_secs(10);
const AGAIN: Duration = Duration::from_secs(2);

/// How often a replica tries to write when others do so at the same time.
const ATTEMPTS: usize = 5;

/// Between certificates of a bundle in one key of a Secret: PEM has no such line.
const PEM_END: &str = "-----END CERTIFICATE-----\n";
const KEY_END: &str = "-----END PRIVATE KEY-----\n";

/// Where the serving certificate comes from.
#[derive(Clone, Debug)]
pub enum Source {
    /// The operator's own authority, kept in a Secret.
    Own,
    /// Files, which somebody else renews.
    Files {
        /// The certificate, and those between it and the authority.
        certificate: PathBuf,
        /// Its key.
        key: PathBuf,
        /// The certificates of the authorities.
        ca: PathBuf,
    },
}

/// Which certificate is served.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Where it comes from.
    pub source: Source,
    /// The operator's own namespace.
    pub namespace: String,
    /// The Secret of the operator's own authority, and the ConfigMap in which agents find the authorities.
    pub object: String,
    /// The name that it is for.
    pub name: String,
}

/// The certificate that is served now.
#[derive(Debug)]
pub struct Serving(ArcSwap<CertifiedKey>);

impl ResolvesServerCert for Serving {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

/// Serves a certificate, and goes on with the next one in time, without a connection ending.
///
/// # Errors
/// If there is none and none can be made.
pub async fn serving(
    client: Client,
    wanted: Wanted,
    stop: CancellationToken,
) -> Result<(Arc<Serving>, impl Future<Output = ()>)> {
    let first = patiently("the serving certificate", || current(&client, &wanted)).await?;
    let serving = Arc::new(Serving(ArcSwap::from_pointee(first)));
    let served = Arc::clone(&serving);
    let renew = async move {
        while stop.run_until_cancelled(tokio::time::sleep(EVERY)).await.is_some() {
            let next = tokio::time::timeout(EVERY, current(&client, &wanted)).await;
            match next.unwrap_or_else(|_| bail!("the API server does not answer")) {
                Ok(next) if next.cert != served.0.load().cert => {
                    tracing::info!("the serving certificate is a new one");
                    served.0.store(Arc::new(next));
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(
                        "the serving certificate could not be looked at; the one at hand is served: {error:#}"
                    );
                }
            }
        }
    };
    Ok((serving, renew))
}

/// Tries again what the operator cannot begin without, as long as the API server is away: nodes may be up before it is.
async fn patiently<T, F: Future<Output = Result<T>>>(what: &str, attempt: impl Fn() -> F) -> Result<T> {
    let in_time =
        || async { tokio::time::timeout(ANSWER, attempt()).await.context("the API server takes too long to answer")? };
    let again = ConstantBuilder::default().with_delay(AGAIN).without_max_times();
    let retried = in_time.retry(again).when(may_pass);
    retried.notify(|error, _| tracing::warn!("{what} cannot be had yet; it is tried again: {error:#}")).await
}

/// Whether an error may pass by itself: the API server is away, or says that it cannot now.
fn may_pass(error: &anyhow::Error) -> bool {
    match error.downcast_ref::<kube::Error>() {
        Some(kube::Error::Api(status)) => status.code >= 500 || status.code == 429,
        Some(_) => true,
        None => error.is::<tokio::time::error::Elapsed>(),
    }
}

async fn current(client: &Client, wanted: &Wanted) -> Result<CertifiedKey> {
    let Wanted { source, namespace, object, name } = wanted;
    let (certified, bundle) = match source {
        Source::Own => {
            let material = material(client, namespace, object, name).await?;
            (certified(material.certificate.as_bytes(), material.key.as_bytes())?, material.bundle())
        }
        Source::Files { certificate, key, ca } => {
            let read = |path: &Path| std::fs::read(path).with_context(|| format!("cannot read {}", path.display()));
            let bundle = String::from_utf8(read(ca)?).with_context(|| format!("{} is not PEM", ca.display()))?;
            (certified(&read(certificate)?, &Zeroizing::new(read(key)?))?, bundle)
        }
    };
    publish(client, namespace, object, "ca.crt", &bundle).await?;
    Ok(certified)
}

fn certified(certificate: &[u8], key: &[u8]) -> Result<CertifiedKey> {
    let chain = CertificateDer::pem_slice_iter(certificate).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|error| anyhow::anyhow!("the serving certificate is no PEM: {error}"))?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| anyhow::anyhow!("its key is no PEM: {error}"))?;
    let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key).context("its key is of no known kind")?;
    let certified = CertifiedKey::new(chain, key);
    certified.keys_match().context("the serving certificate is not its key's")?;
    Ok(certified)
}

async fn material(client: &Client, namespace: &str, secret: &str, name: &str) -> Result<Material> {
    let write = |data: Option<BTreeMap<String, ByteString>>| {
        let before = data.as_ref().and_then(from_secret);
        let next = renewed(before.as_ref(), name, Timestamp::now())?;
        let changed = before.as_ref() != Some(&next);
        Ok((changed.then(|| to_secret(&next)), next))
    };
    agreed(client, namespace, secret, "kubernetes.io/tls", write).await
}

fn from_secret(data: &BTreeMap<String, ByteString>) -> Option<Material> {
    let text = |key: &str| String::from_utf8(data.get(key)?.0.clone()).ok().map(Zeroizing::new);
    let each = |text: &str, end: &str| text.split_inclusive(end).map(str::to_owned).collect::<Vec<_>>();
    Some(Material {
        ca_certificates: each(&text("ca.crt")?, PEM_END),
        ca_keys: each(&text("ca.key")?, KEY_END).into_iter().map(Zeroizing::new).collect(),
        certificate: text("tls.crt")?.to_string(),
        key: text("tls.key")?,
    })
}

fn to_secret(material: &Material) -> BTreeMap<String, ByteString> {
    let keys = material.ca_keys.iter().fold(String::new(), |all, key| all + key);
    let entry = |key: &str, text: &str| (key.to_owned(), ByteString(text.as_bytes().to_vec()));
    BTreeMap::from([
        entry("ca.crt", &material.bundle()),
        entry("ca.key", &keys),
        entry("tls.crt", &material.certificate),
        entry("tls.key", &material.key),
    ])
}

/// The key that identity documents are signed with: made once, kept in a Secret, its certificate in a ConfigMap of the
/// same name.
///
/// # Errors
/// If there is none and none can be made.
pub async fn identity(client: &Client, namespace: &str, name: &str) -> Result<Identity> {
    let write = |data: Option<BTreeMap<String, ByteString>>| {
        let text = |key: &str| data.as_ref().and_then(|data| String::from_utf8(data.get(key)?.0.clone()).ok());
        if let (Some(certificate), Some(key)) = (text("tls.crt"), text("tls.key")) {
            return Ok((None, Identity { key: Zeroizing::new(key), certificate }));
        }
        if data.is_some_and(|data| !data.is_empty()) {
            bail!(
                "it holds no tls.crt and tls.key; delete it to have a new key made, whose certificate verifiers must pin anew"
            );
        }
        let new = Identity::make("podmeta identity")?;
        let entry = |key: &str, text: &str| (key.to_owned(), ByteString(text.as_bytes().to_vec()));
        let data = BTreeMap::from([entry("tls.crt", &new.certificate), entry("tls.key", &new.key)]);
        Ok((Some(data), new))
    };
    patiently("the key of identity documents", || async {
        let identity = agreed(client, namespace, name, "kubernetes.io/tls", write).await?;
        publish(client, namespace, name, "certificate.pem", &identity.certificate).await?;
        Ok(identity)
    })
    .await
}

/// Reads a Secret, and writes it where that is due, as if nobody else did so at the same time.
async fn agreed<T>(
    client: &Client,
    namespace: &str,
    name: &str,
    kind: &str,
    write: impl Fn(Option<BTreeMap<String, ByteString>>) -> Result<(Option<BTreeMap<String, ByteString>>, T)>,
) -> Result<T> {
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let what = || format!("Secret {namespace}/{name}");
    for _ in 0..ATTEMPTS {
        let before = api.get_opt(name).await.with_context(what)?;
        let (data, value) = write(before.as_ref().and_then(|secret| secret.data.clone())).with_context(what)?;
        let Some(data) = data else { return Ok(value) };
        let written = match before {
            Some(mut secret) => {
                secret.data = Some(data);
                api.replace(name, &PostParams::default(), &secret).await
            }
            None => {
                let metadata = ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
                let secret = Secret { metadata, data: Some(data), type_: Some(kind.to_owned()), ..Secret::default() };
                api.create(&PostParams::default(), &secret).await
            }
        };
        match written {
            Ok(_) => return Ok(value),
            Err(kube::Error::Api(status)) if status.code == 409 => {} // another replica was first: what it wrote holds
            Err(error) => return Err(error).with_context(what),
        }
    }
    bail!("{}: others write it all the time", what())
}

/// Publishes a text in a ConfigMap, if it is not there already.
async fn publish(client: &Client, namespace: &str, name: &str, key: &str, text: &str) -> Result<()> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let what = || format!("ConfigMap {namespace}/{name}");
    let there = api.get_opt(name).await.with_context(what)?;
    if there.is_some_and(|map| map.data.is_some_and(|data| data.get(key).is_some_and(|there| there == text))) {
        return Ok(());
    }
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {key: text}});
    let patch = api.patch(name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(&map)).await;
    patch.with_context(what).map(|map| tracing::info!(name = %map.name_any(), "published"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_operator_waits_for_an_api_server_that_is_away_and_not_for_one_that_says_no() {
        let said = |code: u16| kube::Error::Api(Box::new(kube::core::Status::failure("no", "No").with_code(code)));
        let error = |error: kube::Error| anyhow::Error::from(error).context("Secret a/b").context("more");
        for (code, waits) in [(401, false), (403, false), (429, true), (500, true), (503, true)] {
            assert_eq!(may_pass(&error(said(code))), waits, "{code}");
        }
        assert!(may_pass(&error(kube::Error::Service("connection refused".into()))));
        let late = tokio::time::timeout(Duration::ZERO, std::future::pending::<()>()).await.unwrap_err();
        assert!(may_pass(&anyhow::Error::from(late).context("the API server takes too long to answer")));
        assert!(!may_pass(&anyhow::anyhow!("it holds no tls.crt and tls.key")));
    }
}
