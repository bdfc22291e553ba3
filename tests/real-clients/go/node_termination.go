package main

import (
	"fmt"
	"os"

	"github.com/aws/aws-node-termination-handler/pkg/ec2metadata"
)

// nodeTermination checks what aws-node-termination-handler reads: data of the instance, and events that end it.
// The pod is being deleted if interrupted is true.
func nodeTermination(interrupted bool) {
	service := ec2metadata.New("http://169.254.169.254", 1)
	check("node metadata", func() error {
		got := service.GetNodeMetadata()
		return first(equal(got.AccountId, os.Getenv("ACCOUNT")), equal(got.Region, os.Getenv("REGION")),
			equal(got.AvailabilityZone, os.Getenv("ZONE")), equal(got.InstanceType, "m7i.large"),
			matches(got.InstanceID, "i-[0-9a-f]{17}"), matches(got.LocalHostname, ".+"))
	})
	check("scheduled events", func() error {
		events, err := service.GetScheduledMaintenanceEvents()
		return first(err, equal(fmt.Sprint(len(events)), "0"))
	})
	check("rebalance recommendation", func() error {
		recommendation, err := service.GetRebalanceRecommendationEvent()
		if err == nil && recommendation != nil {
			err = fmt.Errorf("got %v", *recommendation)
		}
		return err
	})
	check("interruption", func() error {
		action, err := service.GetSpotITNEvent()
		switch {
		case err != nil:
			return err
		case !interrupted && action != nil:
			return fmt.Errorf("got %v", *action)
		case !interrupted:
			return nil
		case action == nil:
			return fmt.Errorf("no interruption notice")
		}
		return first(equal(action.Action, "terminate"), equal(action.Time, os.Getenv("DELETION_TIME")))
	})
}
