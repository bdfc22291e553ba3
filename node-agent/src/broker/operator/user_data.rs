//! User data of Secrets.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use podmeta_agent_api::calls::{USER_DATA, UserDataRequest, UserDataResponse};
use podmeta_metadata::names::PodUid;
use podmeta_metadata::profile::KeyRef;
use podmeta_service::shared_calls::SharedCalls;
use tokio::time::Instant;

use super::call::{PodCall, PodCallError};
use super::{CALL_PANICKED, FAILURE_AGE, OperatorBroker, lock};
use crate::operator_client::OperatorError;

/// Time for which user data is served without a call to the operator.
const USER_DATA_AGE: Duration = Duration::from_secs(60);

/// The cached user data of each pod, and the calls in flight.
#[derive(Default)]
pub(super) struct UserDataCache {
    pods: Mutex<HashMap<PodUid, CachedUserData>>,
    calls: SharedCalls<(PodUid, KeyRef), UserDataResult>,
}

/// User data, or the error message.
type UserDataResult = Result<Bytes, String>;

/// The last result of a pod.
#[derive(Clone)]
struct CachedUserData {
    key: KeyRef,
    result: UserDataResult,
    fresh_until: Instant,
}

impl UserDataCache {
    /// Removes the data of all pods for which `keep` returns false.
    pub(super) fn retain(&self, keep: impl Fn(&PodUid) -> bool) {
        lock(&self.pods).retain(|pod, _| keep(pod));
    }

    fn cached(&self, pod: &PodUid, key: &KeyRef) -> Option<CachedUserData> {
        lock(&self.pods).get(pod).filter(|cached| cached.key == *key).cloned()
    }
}

impl OperatorBroker {
    /// Returns user data of a Secret. It is cached for a minute, and while the operator is unavailable. A failure is cached
    /// for [`FAILURE_AGE`].
    pub(in crate::broker) async fn user_data(self: &Arc<Self>, pod: &PodUid, key: &KeyRef) -> UserDataResult {
        let cached = self.user_data.cached(pod, key);
        if let Some(cached) = cached.filter(|cached| Instant::now() < cached.fresh_until) {
            return cached.result;
        }
        let (broker, request) = (Arc::clone(self), UserDataRequest { pod: pod.clone(), key: key.clone() });
        let call = async move { broker.fetch_user_data(request).await };
        let result = self.user_data.calls.join((pod.clone(), key.clone()), call).await;
        result.unwrap_or_else(|| Err(CALL_PANICKED.to_owned()))
    }

    /// Calls the operator and caches the result.
    async fn fetch_user_data(&self, request: UserDataRequest) -> UserDataResult {
        let pod = &request.pod;
        let call =
            PodCall { client: &self.client, lane: &self.lanes.user_data, pod, path: USER_DATA, request: &request };
        let response = call.send::<UserDataResponse>().await;
        let cached = self.user_data.cached(pod, &request.key);
        let (result, age) = match (response, cached) {
            (Ok(response), _) => match STANDARD.decode(response.data.expose()) {
                Ok(bytes) => (Ok(Bytes::from(bytes)), USER_DATA_AGE),
                Err(_) => (Err("user data of the operator is not valid base64".to_owned()), FAILURE_AGE),
            },
            (Err(PodCallError::QueueFull), _) => return Err(PodCallError::QueueFull.to_string()),
            (
                Err(PodCallError::Operator(
                    OperatorError::Unreachable(_) | OperatorError::Timeout | OperatorError::Status(_),
                )),
                Some(CachedUserData { result: Ok(bytes), .. }),
            ) => (Ok(bytes), FAILURE_AGE),
            // A rejection is final: the value must not be served later, while the operator is unavailable.
            (Err(error), _) => (Err(error.to_string()), FAILURE_AGE),
        };
        let UserDataRequest { pod, key } = request;
        let cached = CachedUserData { key, result: result.clone(), fresh_until: Instant::now() + age };
        lock(&self.user_data.pods).insert(pod, cached);
        result
    }
}

impl std::fmt::Debug for UserDataCache {
    /// Writes no user data.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("UserDataCache")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::operator::tests::unreachable_broker;

    #[tokio::test(start_paused = true)]
    async fn user_data_of_one_key_is_not_returned_for_another() {
        let pod: PodUid = "u1".try_into().unwrap();
        let key = |key: &str| KeyRef { name: "boot".into(), key: key.into() };
        let broker = unreachable_broker(super::super::SavedBrokerState::default());
        let fresh_until = Instant::now() + USER_DATA_AGE;
        let cached = CachedUserData { key: key("a"), result: Ok("a".into()), fresh_until };
        lock(&broker.user_data.pods).insert(pod.clone(), cached);
        assert_eq!(broker.user_data(&pod, &key("a")).await, Ok("a".into()));
        assert!(broker.user_data(&pod, &key("b")).await.is_err());
    }

    #[test]
    fn debug_output_of_the_cache_is_a_fixed_text() {
        assert_eq!(format!("{:?}", UserDataCache::default()), "UserDataCache");
    }
}
