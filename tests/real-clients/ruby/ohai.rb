# Ohai from the Debian package, unmodified: the facts of its EC2 plugin. A hint replaces the check of the BIOS.
require "json"
require "ohai"

# check NAME { ... }: prints `ok NAME`, or `FAIL NAME: reason` if the block raises.
def check(name)
  yield
  puts "ok #{name}"
rescue StandardError => error
  puts "FAIL #{name}: #{error.class}: #{error.message.split.join(" ")}"
end

def equal(got, expected)
  raise "got #{got.inspect}, expected #{expected.inspect}" unless got == expected
end

def facts
  File.write("ec2.json", "{}")
  Ohai.config[:hints_path] = [Dir.pwd]
  system = Ohai::System.new
  system.all_plugins(["ec2"])
  system.data["ec2"] || raise("the plugin EC2 returned nothing")
end

def full(got)
  check("instance ID and zone") do
    raise "got #{got["instance_id"].inspect}" unless got["instance_id"].match?(/\Ai-[0-9a-f]{17}\z/)

    equal(got["placement_availability_zone"], ENV.fetch("ZONE"))
  end
  check("identity document") do
    equal(got["account_id"], ENV.fetch("ACCOUNT"))
    equal(got["region"], ENV.fetch("REGION"))
  end
  check("role, and no credentials") do
    # Ohai replaces the hyphens of a name.
    equal(got["iam"]["role_name"], ENV.fetch("EC2_ROLE").tr("-", "_"))
    equal(got.to_json.include?(ENV.fetch("EC2_SECRET_ACCESS_KEY")), false)
  end
  check("network interfaces") { equal(got["network_interfaces_macs"].keys, [got["mac"]]) }
  check("user data and public key") do
    equal(got["userdata"], "#!/bin/sh\necho hello\n")
    equal(got["public_keys_0_openssh_key"].strip, ENV.fetch("PUBLIC_KEY"))
  end
end

def roleless(got)
  check("facts of a pod without a role") do
    raise "got #{got["instance_id"].inspect}" unless got["instance_id"].match?(/\Ai-[0-9a-f]{17}\z/)

    equal(got["iam"], nil)
  end
end

ARGV.first == "roleless" ? roleless(facts) : full(facts)
