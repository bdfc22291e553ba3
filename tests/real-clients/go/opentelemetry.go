package main

import (
	"context"
	"os"
	"time"

	"go.opentelemetry.io/contrib/detectors/aws/ec2/v2"
)

// opentelemetry checks the resource attributes of the EC2 detector.
func opentelemetry() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	check("attributes", func() error {
		resource, err := ec2.NewResourceDetector().Detect(ctx)
		if err != nil {
			return err
		}
		got := map[string]string{}
		for _, attribute := range resource.Attributes() {
			got[string(attribute.Key)] = attribute.Value.AsString()
		}
		return first(equal(got["cloud.provider"], "aws"), equal(got["cloud.platform"], "aws_ec2"),
			equal(got["cloud.region"], os.Getenv("REGION")), equal(got["cloud.availability_zone"], os.Getenv("ZONE")),
			equal(got["cloud.account.id"], os.Getenv("ACCOUNT")), equal(got["host.type"], "m7i.large"),
			matches(got["host.id"], "i-[0-9a-f]{17}"), matches(got["host.image.id"], "ami-[0-9a-f]{17}"),
			matches(got["host.name"], ".+"))
	})
}
