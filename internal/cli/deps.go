package cli

// Keeps the module until the first command that uses it.
import _ "github.com/aws/aws-sdk-go-v2/service/ebs"
