"""The winner out: a trained cell as a folder that plain libraries load."""
