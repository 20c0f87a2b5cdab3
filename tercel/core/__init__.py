"""The ground floor: messages, components, geometry and errors. numpy only; imports nothing else of ours."""
