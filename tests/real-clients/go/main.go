// Clients in Go, unmodified: AWS SDK for Go v2, Alibaba Cloud credentials, OpenTelemetry's EC2 detector and the client of
// aws-node-termination-handler. The arguments are the client and optionally "roleless" or "interrupted". Each check prints `ok NAME` or `FAIL NAME: reason`.
package main

import (
	"fmt"
	"os"
	"regexp"
	"strings"
)

func main() {
	roleless := len(os.Args) > 2 && os.Args[2] == "roleless"
	interrupted := len(os.Args) > 2 && os.Args[2] == "interrupted"
	switch os.Args[1] {
	case "aws":
		aws(roleless)
	case "alibaba":
		alibaba(roleless)
	case "opentelemetry":
		opentelemetry()
	case "node-termination":
		nodeTermination(interrupted)
	default:
		fmt.Fprintln(os.Stderr, "unknown client", os.Args[1])
		os.Exit(2)
	}
}

// check runs a check and prints its result.
func check(name string, probe func() error) {
	if err := probe(); err != nil {
		fmt.Printf("FAIL %s: %s\n", name, strings.Join(strings.Fields(err.Error()), " "))
		return
	}
	fmt.Printf("ok %s\n", name)
}

// equal returns an error if the values differ.
func equal(got, expected string) error {
	if got != expected {
		return fmt.Errorf("got %q, expected %q", got, expected)
	}
	return nil
}

// matches returns an error if the pattern does not match the whole value.
func matches(got, pattern string) error {
	if !regexp.MustCompile("^(" + pattern + ")$").MatchString(got) {
		return fmt.Errorf("got %q, expected %s", got, pattern)
	}
	return nil
}

// first returns the first error.
func first(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
