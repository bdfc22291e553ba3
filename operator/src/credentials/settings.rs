//! Settings of the providers, as flags. A profile cannot set an endpoint or a region of a call, so it cannot direct a token to
//! another host.

use std::collections::BTreeSet;
use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

use http::Uri;

use crate::cluster::cluster_id::ClusterId;

/// The first part of the names of regions in the partition `aws`. Source: the partition list of the AWS SDKs.
const AWS_AREAS: [&str; 9] = ["af", "ap", "ca", "eu", "il", "me", "mx", "sa", "us"];

/// Settings of the credentials providers.
#[derive(Clone, Debug, clap::Args)]
pub struct CredentialsArgs {
    /// Region of the AWS STS endpoint. Roles must be in its partition: aws, aws-cn or aws-us-gov.
    #[arg(long, default_value = "us-east-1", value_name = "REGION")]
    pub aws_region: AwsRegion,

    /// URL of the AWS STS endpoint, such as that of a private endpoint. The default is the public one of the region.
    #[arg(long, value_name = "URL")]
    pub aws_sts_endpoint: Option<StsEndpoint>,

    /// Use the FIPS endpoint of the AWS region.
    #[arg(long, conflicts_with = "aws_sts_endpoint")]
    pub aws_fips: bool,

    /// Region of the Alibaba Cloud STS endpoint. The default is the endpoint of all regions.
    #[arg(long, value_name = "REGION")]
    pub aliyun_region: Option<AliyunRegion>,

    /// URL of the Alibaba Cloud STS endpoint, such as that of a private endpoint.
    #[arg(long, value_name = "URL", conflicts_with = "aliyun_region")]
    pub aliyun_sts_endpoint: Option<StsEndpoint>,

    /// Audiences of the pods' tokens that the operator may request, separated by commas. If it is empty, awsWebIdentity and
    /// aliyunOidc are off. The chart's admission policy has the same list.
    #[arg(long, default_value = "sts.amazonaws.com,sts.aliyuncs.com", value_name = "AUDIENCES")]
    pub token_audiences: TokenAudiences,

    /// Maximum rate of calls to each cloud by this replica, in calls per second.
    #[arg(long, default_value = "10", value_name = "RATE")]
    pub sts_calls_per_second: NonZeroU32,

    /// ID of the cluster, the first part of external IDs. The default is the UID of the namespace kube-system.
    #[arg(long, value_name = "ID")]
    pub cluster_id: Option<ClusterId>,
}

/// A partition of AWS, with its own accounts and endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AwsPartition {
    /// `aws`
    Commercial,
    /// `aws-cn`
    China,
    /// `aws-us-gov`
    UsGov,
}

impl fmt::Display for AwsPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Commercial => "aws",
            Self::China => "aws-cn",
            Self::UsGov => "aws-us-gov",
        })
    }
}

/// The name of an AWS region in a known partition. It is part of a host name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AwsRegion {
    name: String,
    partition: AwsPartition,
}

impl AwsRegion {
    /// Returns the name, such as `eu-west-1`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the partition.
    #[must_use]
    pub fn partition(&self) -> AwsPartition {
        self.partition
    }
}

impl FromStr for AwsRegion {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let is_place = |place: &str| !place.is_empty() && place.bytes().all(|byte| byte.is_ascii_lowercase());
        let is_number =
            |number: &str| (1..=2).contains(&number.len()) && number.bytes().all(|byte| byte.is_ascii_digit());
        let parts: Vec<&str> = name.split('-').collect();
        let partition = match parts.as_slice() {
            ["us", "gov", place, number] if is_place(place) && is_number(number) => AwsPartition::UsGov,
            ["cn", place, number] if is_place(place) && is_number(number) => AwsPartition::China,
            [area, place, number] if AWS_AREAS.contains(area) && is_place(place) && is_number(number) => {
                AwsPartition::Commercial
            }
            _ => return Err("is not a region of the partitions aws, aws-cn and aws-us-gov".to_owned()),
        };
        Ok(Self { name: name.to_owned(), partition })
    }
}

/// The name of an Alibaba Cloud region. It is part of a host name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AliyunRegion(String);

impl FromStr for AliyunRegion {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let is_part = |part: &str| {
            !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
        };
        let parts = name.split('-');
        if (2..=4).contains(&parts.clone().count()) && parts.clone().all(is_part) && name.len() <= 40 {
            Ok(Self(name.to_owned()))
        } else {
            Err("is not the name of a region, such as cn-hangzhou".to_owned())
        }
    }
}

/// The URL of an endpoint: scheme, host and port only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StsEndpoint(Uri);

impl StsEndpoint {
    /// Returns the public endpoint of Alibaba Cloud's STS.
    /// Source: <https://api.aliyun.com/product/Sts>, endpoints.
    #[must_use]
    pub fn aliyun_sts(region: Option<&AliyunRegion>) -> Self {
        let host =
            region.map_or_else(|| "sts.aliyuncs.com".to_owned(), |region| format!("sts.{}.aliyuncs.com", region.0));
        let uri = Uri::builder().scheme("https").authority(host).path_and_query("/").build();
        // A region's name is always valid in a host name.
        Self(uri.unwrap_or_default())
    }

    /// Returns the URL. Its path is `/`.
    #[must_use]
    pub fn uri(&self) -> &Uri {
        &self.0
    }
}

impl FromStr for StsEndpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let uri: Uri = text.parse().map_err(|error| format!("is not a URL: {error}"))?;
        let has_scheme = uri.scheme_str().is_some_and(|scheme| scheme == "https" || scheme == "http");
        let has_user = uri.authority().is_some_and(|authority| authority.as_str().contains('@'));
        if !has_scheme || has_user || uri.host().is_none_or(str::is_empty) || uri.path() != "/" || uri.query().is_some()
        {
            return Err("must be https:// or http:// with a host and a port only".to_owned());
        }
        Ok(Self(uri))
    }
}

/// The audiences of tokens that the operator may request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenAudiences(BTreeSet<String>);

impl TokenAudiences {
    /// Returns true if the operator may request tokens with this audience.
    #[must_use]
    pub fn contains(&self, audience: &str) -> bool {
        self.0.contains(audience)
    }

    /// Returns an audience, or `None` if there is none.
    #[must_use]
    pub fn first(&self) -> Option<&str> {
        self.0.first().map(String::as_str)
    }
}

impl FromStr for TokenAudiences {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        let audience = |audience: &str| {
            let is_valid = (1..=253).contains(&audience.len()) && audience.bytes().all(|byte| byte.is_ascii_graphic());
            if is_valid { Ok(audience.to_owned()) } else { Err(format!("{audience:?} is not an audience")) }
        };
        text.split(',').map(audience).collect::<Result<_, _>>().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn region_of_a_known_partition_is_accepted_and_other_text_is_rejected() {
        for (name, partition) in [
            ("us-east-1", "aws"),
            ("ap-southeast-7", "aws"),
            ("mx-central-1", "aws"),
            ("cn-northwest-1", "aws-cn"),
            ("us-gov-west-1", "aws-us-gov"),
        ] {
            assert_eq!(name.parse::<AwsRegion>().unwrap().partition().to_string(), partition, "{name}");
        }
        for name in [
            "",
            "us-east-1.evil.example",
            "evil.example/#-east-1",
            "us-east-",
            "us--1",
            "us-east-1-",
            "us-iso-east-1",
            "xx-east-1",
            "US-EAST-1",
            "us-east-100",
            "us-east-1\n",
        ] {
            assert!(name.parse::<AwsRegion>().is_err(), "{name:?}");
        }
    }

    #[test]
    fn endpoint_of_an_aliyun_region_is_under_aliyuncs_com() {
        let region = |name: &str| name.parse::<AliyunRegion>();
        let uri = |region: Option<&AliyunRegion>| StsEndpoint::aliyun_sts(region).uri().to_string();
        assert_eq!(uri(None), "https://sts.aliyuncs.com/");
        assert_eq!(uri(Some(&region("cn-hangzhou").unwrap())), "https://sts.cn-hangzhou.aliyuncs.com/");
        assert_eq!(uri(Some(&region("ap-southeast-1").unwrap())), "https://sts.ap-southeast-1.aliyuncs.com/");
        for name in ["", "cn", "evil.example/", "cn-hangzhou.evil", "cn-hang/zhou", "a-b-c-d-e", "cn-", "CN-x"] {
            assert!(region(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn endpoint_is_scheme_host_and_port_only() {
        for text in ["https://sts.example", "https://sts.example/", "http://127.0.0.1:5000", "https://[::1]:443/"] {
            assert!(text.parse::<StsEndpoint>().is_ok(), "{text}");
        }
        for text in
            ["", "sts.example", "/path", "ftp://sts.example", "https://sts.example/x", "https://a@b/", "https://b/?x"]
        {
            assert!(text.parse::<StsEndpoint>().is_err(), "{text}");
        }
    }

    #[test]
    fn audiences_are_a_list_of_names() {
        let audiences: TokenAudiences = "sts.amazonaws.com,https://other".parse().unwrap();
        assert!(audiences.contains("https://other") && !audiences.contains("sts.amazonaws"));
        assert_eq!("".parse::<TokenAudiences>().unwrap().first(), None);
        for text in ["a,", ",a", "a b", "a\n"] {
            assert!(text.parse::<TokenAudiences>().is_err(), "{text:?}");
        }
    }
}
