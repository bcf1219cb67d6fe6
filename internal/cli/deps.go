package cli

// The libraries of verbs that are on their way. A line goes when its verb
// comes.
import (
	_ "github.com/aws/aws-sdk-go-v2/service/dlm"
)
