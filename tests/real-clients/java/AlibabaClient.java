import com.aliyun.credentials.Client;
import com.aliyun.credentials.models.Config;
import com.aliyun.credentials.models.CredentialModel;

/** Alibaba Cloud credentials for Java: credentials of an ECS RAM role. */
final class AlibabaClient {
    public static void main(String[] arguments) {
        boolean roleless = arguments.length > 0 && arguments[0].equals("roleless");
        for (boolean disableImdsV1 : new boolean[] {false, true}) {
            String suffix = disableImdsV1 ? ", IMDSv1 disabled" : "";
            if (roleless) {
                Checks.check("pod without a role has no credentials" + suffix, () ->
                        Checks.fails(() -> credential(null, disableImdsV1), "The role name was not found in the instance"));
                continue;
            }
            Checks.check("credentials, role discovered" + suffix, () -> credentials(null, disableImdsV1));
            Checks.check("credentials, role given" + suffix, () -> credentials(Checks.env("ECS_ROLE"), disableImdsV1));
        }
    }

    private static CredentialModel credential(String role, boolean disableImdsV1) {
        Config config = new Config().setType("ecs_ram_role").setDisableIMDSv1(disableImdsV1);
        if (role != null) {
            config.setRoleName(role);
        }
        return new Client(config).getCredential();
    }

    private static void credentials(String role, boolean disableImdsV1) {
        CredentialModel got = credential(role, disableImdsV1);
        Checks.equal(got.getAccessKeyId(), Checks.env("ECS_ACCESS_KEY_ID"));
        Checks.equal(got.getAccessKeySecret(), Checks.env("ECS_ACCESS_KEY_SECRET"));
        Checks.equal(got.getSecurityToken(), Checks.env("ECS_SECURITY_TOKEN"));
    }
}
