//! Addresses of Services, EndpointSlices and Endpoints.

use anyhow::Result;
use k8s_openapi::api::core::v1::{Endpoints, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use podmeta_cluster::layout::METADATA_ADDRESSES;
use serde_json::{Value, json};

use super::requests::{Requests, endpoint_slice, endpoints, service};
use crate::kit;

#[tokio::test]
async fn services_with_a_service_address_are_rejected() -> Result<()> {
    kit::podmeta_test(async |_, namespace| {
        let requests = Requests::new::<Service>(namespace).await?;
        let external = |address: &str| service("web", json!({"externalIPs": ["192.0.2.1", address]}));
        requests.wait_until_rejected(&external("100.100.100.200")).await?;
        for (address, message) in [
            // The API server rejects link-local addresses itself.
            ("169.254.169.254", "may not be in the link-local range"),
            ("100.100.100.200", "spec.externalIPs is \"100.100.100.200\". It is a service address of the clouds"),
            ("fd00:ec2::254", "spec.externalIPs is \"fd00:ec2::254\""),
            ("fda9:fe:a9fe::a9fe:ef03", "spec.externalIPs is \"fda9:fe:a9fe::a9fe:ef03\""),
            ("fd00:0ec2:0:0:0:0:0:0254", "spec.externalIPs is \"fd00:0ec2:0:0:0:0:0:0254\""),
        ] {
            requests.create(&external(address), Err(message)).await?;
        }
        for address in ["192.0.2.2", "100.100.100.201", "fd00:ec2::253"] {
            requests.create(&external(address), Ok(())).await?;
        }
        let balanced = |address: &str| service("web", json!({"type": "LoadBalancer", "loadBalancerIP": address}));
        for address in METADATA_ADDRESSES.into_iter().chain(["::ffff:a9fe:a9fe", "0xa9fea9fe"]) {
            let message = format!("spec.loadBalancerIP is \"{address}\"");
            requests.create(&balanced(address), Err(&message)).await?;
        }
        for address in ["", "192.0.2.2", "name-of-an-address"] {
            requests.create(&balanced(address), Ok(())).await?;
        }
        let external_name = |name: &str| service("web", json!({"type": "ExternalName", "externalName": name}));
        for name in ["169.254.169.254", "100.100.100.200", "2852039166"] {
            let message = format!("spec.externalName is \"{name}\"");
            requests.create(&external_name(name), Err(&message)).await?;
        }
        for name in ["example.com", "192.0.2.2", "254.example"] {
            requests.create(&external_name(name), Ok(())).await?;
        }

        namespace.apply(&service("existing", json!({"type": "LoadBalancer"})).to_string()).await?;
        let ingress = |address: &str| json!({"status": {"loadBalancer": {"ingress": [{"ip": address}]}}});
        for address in METADATA_ADDRESSES {
            let message = format!("status.loadBalancer.ingress.ip is \"{address}\"");
            requests.patch("existing", Some("status"), &ingress(address), Err(&message)).await?;
        }
        requests.patch("existing", Some("status"), &ingress("192.0.2.3"), Ok(())).await?;
        let spec = |address: &str| json!({"spec": {"externalIPs": [address]}});
        requests.patch("existing", None, &spec("192.0.2.4"), Ok(())).await?;
        let rejected = "spec.externalIPs is \"100.100.100.200\"";
        requests.patch("existing", None, &spec("100.100.100.200"), Err(rejected)).await
    })
    .await
}

#[tokio::test]
async fn endpoints_with_a_service_address_are_rejected() -> Result<()> {
    kit::podmeta_test(async |_, namespace| {
        let slices = Requests::new::<EndpointSlice>(namespace).await?;
        let lists = Requests::new::<Endpoints>(namespace).await?;
        slices.wait_until_rejected(&endpoint_slice("web", "IPv4", &json!(["100.100.100.200"]))).await?;
        for (family, address, message) in [
            ("IPv4", "169.254.169.254", "may not be in the link-local range"),
            ("IPv4", "100.100.100.200", "is \"100.100.100.200\". It is a service address of the clouds"),
            ("IPv6", "fd00:ec2::254", "is \"fd00:ec2::254\". It is a service address of the clouds"),
            ("IPv6", "fda9:fe:a9fe::a9fe:ef03", "is \"fda9:fe:a9fe::a9fe:ef03\""),
        ] {
            let first = if family == "IPv6" { "fd00::1" } else { "192.0.2.1" };
            slices.create(&endpoint_slice("web", family, &json!([first, address])), Err(message)).await?;
            slices.create(&endpoint_slice("web", family, &json!([address])), Err(message)).await?;
            for field in ["addresses", "notReadyAddresses"] {
                lists.create(&endpoints("web", field, address), Err(message)).await?;
            }
        }
        for (family, address) in [("IPv4", "192.0.2.1"), ("IPv6", "fd00:ec2::253")] {
            slices.create(&endpoint_slice("web", family, &json!([address])), Ok(())).await?;
            lists.create(&endpoints("web", "addresses", address), Ok(())).await?;
        }
        let mut empty = endpoint_slice("web", "IPv4", &json!([]));
        for value in [json!([]), Value::Null] {
            if let Value::Object(fields) = &mut empty {
                fields.insert("endpoints".to_owned(), value);
            }
            slices.create(&empty, Ok(())).await?;
        }

        namespace.apply(&endpoint_slice("existing", "IPv4", &json!(["192.0.2.1"])).to_string()).await?;
        let changed = json!({"endpoints": [{"addresses": ["100.100.100.200"]}]});
        slices.patch("existing", None, &changed, Err("endpoints.addresses is \"100.100.100.200\"")).await?;
        slices.patch("existing", None, &json!({"endpoints": [{"addresses": ["192.0.2.2"]}]}), Ok(())).await?;
        // As many endpoints as the API server accepts in one slice.
        let addresses: Vec<String> = (0..1000).map(|index| format!("192.0.{}.{}", index / 250, index % 250)).collect();
        let full: Vec<Value> = addresses.iter().map(|address| json!({"addresses": [address]})).collect();
        slices.patch("existing", None, &json!({"endpoints": full}), Ok(())).await
    })
    .await
}
