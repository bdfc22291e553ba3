import software.amazon.awssdk.auth.credentials.AwsSessionCredentials;
import software.amazon.awssdk.auth.credentials.DefaultCredentialsProvider;
import software.amazon.awssdk.auth.credentials.InstanceProfileCredentialsProvider;
import software.amazon.awssdk.imds.Ec2MetadataClient;
import software.amazon.awssdk.regions.internal.util.EC2MetadataUtils;
import software.amazon.awssdk.regions.providers.InstanceProfileRegionProvider;

/** AWS SDK for Java v2: credentials, region, identity document and Ec2MetadataClient. */
final class AwsClient {
    public static void main(String[] arguments) {
        if (arguments.length > 0 && arguments[0].equals("roleless")) {
            Checks.check("pod without a role has no credentials", () ->
                    Checks.fails(() -> InstanceProfileCredentialsProvider.create().resolveCredentials(),
                            "Failed to load credentials from IMDS"));
            return;
        }
        Checks.check("credentials of the default chain", () ->
                credentials((AwsSessionCredentials) DefaultCredentialsProvider.builder().build().resolveCredentials()));
        Checks.check("credentials by InstanceProfileCredentialsProvider", () ->
                credentials((AwsSessionCredentials) InstanceProfileCredentialsProvider.create().resolveCredentials()));
        Checks.check("region by InstanceProfileRegionProvider", () ->
                Checks.equal(new InstanceProfileRegionProvider().getRegion().id(), Checks.env("REGION")));
        Checks.check("identity document by EC2MetadataUtils", () -> {
            EC2MetadataUtils.InstanceInfo info = EC2MetadataUtils.getInstanceInfo();
            Checks.equal(info.getAccountId(), Checks.env("ACCOUNT"));
            Checks.equal(info.getAvailabilityZone(), Checks.env("ZONE"));
            Checks.matches(info.getInstanceId(), "i-[0-9a-f]{17}");
        });
        Checks.check("network interfaces by EC2MetadataUtils", () ->
                Checks.equal(EC2MetadataUtils.getNetworkInterfaces().get(0).getMacAddress(), EC2MetadataUtils.getMacAddress()));
        Checks.check("role and document by Ec2MetadataClient", () -> {
            try (Ec2MetadataClient client = Ec2MetadataClient.create()) {
                Checks.equal(client.get("/latest/meta-data/iam/security-credentials/").asList().get(0), Checks.env("EC2_ROLE"));
                Checks.equal(client.get("/latest/dynamic/instance-identity/document").asDocument().asMap().get("region").asString(),
                        Checks.env("REGION"));
            }
        });
    }

    private static void credentials(AwsSessionCredentials got) {
        Checks.equal(got.accessKeyId(), Checks.env("EC2_ACCESS_KEY_ID"));
        Checks.equal(got.secretAccessKey(), Checks.env("EC2_SECRET_ACCESS_KEY"));
        Checks.equal(got.sessionToken(), Checks.env("EC2_SESSION_TOKEN"));
    }
}
