// Renders chat templates with Go's own text/template, under the rules by which Ollama fills them
// (github.com/ollama/ollama, template/template.go and server/prompt.go):
//
//   - a field that a template names and nobody gives is empty ("missingkey=zero");
//   - the Modelfile's SYSTEM text becomes the first message where the conversation does not begin with one;
//   - .System holds all system messages, joined by an empty line; they stay in .Messages, too;
//   - neighbouring messages of one role become one, joined by an empty line;
//   - a template that names .Messages is run once over the whole conversation; one that does not is run for each
//     turn with .System, .Prompt and .Response, and for the last one up to where it names .Response.
//
// Reads JSON objects, one a line, and answers each with one JSON string a line, or an object with "error".
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"text/template"
	"text/template/parse"
	"time"
)

type message struct {
	Role    string `json:"role"`
	Content string `json:"content"`
}

type request struct {
	Template string    `json:"template"`
	System   string    `json:"system"`
	Messages []message `json:"messages"`
	Now      string    `json:"now"`
}

func main() {
	lines := bufio.NewReaderSize(os.Stdin, 1<<20)
	answers := json.NewEncoder(os.Stdout)
	answers.SetEscapeHTML(false)
	for {
		line, err := lines.ReadString('\n')
		if strings.TrimSpace(line) != "" {
			var asked request
			var answer any
			if problem := json.Unmarshal([]byte(line), &asked); problem != nil {
				answer = map[string]string{"error": problem.Error()}
			} else if text, problem := render(asked); problem != nil {
				answer = map[string]string{"error": problem.Error()}
			} else {
				answer = text
			}
			if problem := answers.Encode(answer); problem != nil {
				fmt.Fprintln(os.Stderr, problem)
				os.Exit(1)
			}
		}
		if err != nil {
			return
		}
	}
}

func render(asked request) (string, error) {
	functions := template.FuncMap{
		"json": func(value any) string {
			text, _ := json.Marshal(value)
			return string(text)
		},
		"currentDate": func(...string) string {
			if asked.Now != "" {
				return asked.Now
			}
			return time.Now().Format("2006-01-02")
		},
	}
	parsed, err := template.New("").Option("missingkey=zero").Funcs(functions).Parse(asked.Template)
	if err != nil {
		return "", err
	}
	messages := asked.Messages
	if asked.System != "" && (len(messages) == 0 || messages[0].Role != "system") {
		messages = append([]message{{"system", asked.System}}, messages...)
	}
	system, merged := merge(messages)
	var out strings.Builder
	if names(parsed.Root, "Messages") {
		err = parsed.Execute(&out, map[string]any{"System": system, "Messages": merged, "Response": ""})
		return out.String(), err
	}
	return byTurn(parsed, merged)
}

// merge joins neighbours of one role, and collects the system texts.
func merge(messages []message) (string, []message) {
	var systems []string
	var merged []message
	for _, each := range messages {
		if each.Role == "system" {
			systems = append(systems, each.Content)
		}
		if last := len(merged) - 1; last >= 0 && merged[last].Role == each.Role {
			merged[last].Content += "\n\n" + each.Content
		} else {
			merged = append(merged, each)
		}
	}
	return strings.Join(systems, "\n\n"), merged
}

// byTurn runs a template that knows only .System, .Prompt and .Response.
func byTurn(parsed *template.Template, messages []message) (string, error) {
	var out strings.Builder
	turn := map[string]any{"System": "", "Prompt": "", "Response": ""}
	finish := func(run *template.Template) error {
		err := run.Execute(&out, turn)
		turn = map[string]any{"System": "", "Prompt": "", "Response": ""}
		return err
	}
	for _, each := range messages {
		begins := (each.Role == "user" && turn["Response"] != "") ||
			(each.Role == "system" && (turn["Prompt"] != "" || turn["Response"] != ""))
		if begins {
			if err := finish(parsed); err != nil {
				return "", err
			}
		}
		turn[map[string]string{"system": "System", "user": "Prompt", "assistant": "Response"}[each.Role]] = each.Content
	}
	kept := &parse.ListNode{NodeType: parse.NodeList}
	for _, node := range parsed.Root.Nodes {
		if names(node, "Response") {
			break
		}
		kept.Nodes = append(kept.Nodes, node)
	}
	last, err := parsed.Clone()
	if err != nil {
		return "", err
	}
	if last, err = last.AddParseTree("last", &parse.Tree{Root: kept}); err != nil {
		return "", err
	}
	err = finish(last)
	return out.String(), err
}

// names tells whether a node's text holds the field.
func names(node parse.Node, field string) bool {
	return strings.Contains(node.String(), "."+field)
}
