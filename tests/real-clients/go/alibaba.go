package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/aliyun/credentials-go/credentials"
)

// alibaba checks credentials of an ECS RAM role.
func alibaba(roleless bool) {
	for _, disableV1 := range []bool{false, true} {
		suffix := ""
		if disableV1 {
			suffix = ", IMDSv1 disabled"
		}
		if roleless {
			check("pod without a role has no credentials"+suffix, func() error { return alibabaWithoutRole(disableV1) })
			continue
		}
		check("credentials, role discovered"+suffix, func() error { return alibabaCredentials("", disableV1) })
		check("credentials, role given"+suffix, func() error { return alibabaCredentials(os.Getenv("ECS_ROLE"), disableV1) })
	}
}

func alibabaCredential(role string, disableV1 bool) (*credentials.CredentialModel, error) {
	kind := "ecs_ram_role"
	config := &credentials.Config{Type: &kind, DisableIMDSv1: &disableV1}
	if role != "" {
		config.RoleName = &role
	}
	credential, err := credentials.NewCredential(config)
	if err != nil {
		return nil, err
	}
	return credential.GetCredential()
}

func alibabaCredentials(role string, disableV1 bool) error {
	got, err := alibabaCredential(role, disableV1)
	if err != nil {
		return err
	}
	return first(equal(*got.AccessKeyId, os.Getenv("ECS_ACCESS_KEY_ID")),
		equal(*got.AccessKeySecret, os.Getenv("ECS_ACCESS_KEY_SECRET")),
		equal(*got.SecurityToken, os.Getenv("ECS_SECURITY_TOKEN")))
}

func alibabaWithoutRole(disableV1 bool) error {
	// With IMDSv1 allowed, the SDK retries without a token and reports the status of the retry: 403.
	status := "403"
	if disableV1 {
		status = "404"
	}
	if _, err := alibabaCredential("", disableV1); err == nil || !strings.Contains(err.Error(), status) {
		return fmt.Errorf("expected %s, got %v", status, err)
	}
	return nil
}
