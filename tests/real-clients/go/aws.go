package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials/ec2rolecreds"
	"github.com/aws/aws-sdk-go-v2/feature/ec2/imds"
	smithyhttp "github.com/aws/smithy-go/transport/http"
)

// aws checks credentials, by the default chain and by ec2rolecreds, and the clients of imds.
func aws(roleless bool) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if roleless {
		check("pod without a role has no credentials", func() error {
			_, err := ec2rolecreds.New().Retrieve(ctx)
			var response *smithyhttp.ResponseError
			if !errors.As(err, &response) || response.HTTPStatusCode() != http.StatusNotFound {
				return fmt.Errorf("expected 404, got %v", err)
			}
			return nil
		})
		return
	}
	cfg, err := config.LoadDefaultConfig(ctx)
	if err != nil {
		check("configuration", func() error { return err })
		return
	}
	client := imds.NewFromConfig(cfg)
	check("credentials of the default chain", func() error {
		got, err := cfg.Credentials.Retrieve(ctx)
		return first(err, equal(got.AccessKeyID, os.Getenv("EC2_ACCESS_KEY_ID")),
			equal(got.SecretAccessKey, os.Getenv("EC2_SECRET_ACCESS_KEY")),
			equal(got.SessionToken, os.Getenv("EC2_SESSION_TOKEN")))
	})
	check("credentials by ec2rolecreds", func() error {
		got, err := ec2rolecreds.New().Retrieve(ctx)
		return first(err, equal(got.AccessKeyID, os.Getenv("EC2_ACCESS_KEY_ID")),
			equal(got.SessionToken, os.Getenv("EC2_SESSION_TOKEN")))
	})
	check("region", func() error {
		got, err := client.GetRegion(ctx, nil)
		if err != nil {
			return err
		}
		return equal(got.Region, os.Getenv("REGION"))
	})
	check("identity document", func() error {
		got, err := client.GetInstanceIdentityDocument(ctx, nil)
		if err != nil {
			return err
		}
		return first(equal(got.AccountID, os.Getenv("ACCOUNT")), equal(got.AvailabilityZone, os.Getenv("ZONE")),
			matches(got.InstanceID, "i-[0-9a-f]{17}"))
	})
	check("IAM info", func() error {
		got, err := client.GetIAMInfo(ctx, nil)
		if err != nil {
			return err
		}
		return matches(got.InstanceProfileArn, "arn:aws:iam::[0-9]{12}:instance-profile/"+os.Getenv("EC2_ROLE"))
	})
	check("instance ID", func() error {
		got, err := client.GetMetadata(ctx, &imds.GetMetadataInput{Path: "instance-id"})
		if err != nil {
			return err
		}
		defer got.Content.Close()
		text, err := io.ReadAll(got.Content)
		return first(err, matches(string(text), "i-[0-9a-f]{17}"))
	})
	check("user data", func() error {
		got, err := client.GetUserData(ctx, nil)
		if err != nil {
			return err
		}
		defer got.Content.Close()
		text, err := io.ReadAll(got.Content)
		return first(err, equal(string(text), "#!/bin/sh\necho hello\n"))
	})
}
