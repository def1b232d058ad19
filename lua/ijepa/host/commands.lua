--- The commands of the program for help and usage: name, arguments, one line, text, example.
return {
  { name = "help", arguments = "[NAME]",
    brief = "print help about a command, topic, setting or function",
    text = "NAME is a command (report), a topic (masks), a setting (optim.lr), a section (data), a function " ..
      "(mask.draw), a module (mask) or a recipe's file. Without NAME it prints an overview. " ..
      "`help settings --markdown` prints docs/settings.md.",
    example = "ijepa help optim.lr" },
  { name = "report", arguments = "RUN [out=FILE]", brief = "write one HTML page about a run",
    text = "Writes RUN/report.html: curves, diagnoses, masks, features, probes and settings of a run, also while it " ..
      "trains. The page needs no other file. Prints its path. See docs/report.md.",
    example = "ijepa report runs/quickstart" },
  { name = "check", arguments = "[FOLDER]", brief = "test what works on this machine",
    text = "Tests CPU, threads, memory, matrix products, gradients, GPU, MPI and image formats, and whether the file " ..
      "system of FOLDER (default: the current one) has locks, hard links, sync and rename. One line per test: ok, " ..
      "none (no GPU), warn or fail, with advice for the last two. Exits with 1 when a test fails.",
    example = "ijepa check runs" },
  { name = "memory", arguments = "RECIPE [key=value ...] [processes=N] [gpu=GIB]",
    brief = "the GPU memory that a training step needs",
    text = "Counts the memory of one step of a recipe without a GPU, and lists changes of settings that fit into GPUs " ..
      "of 24, 40 and 80 GiB, or of gpu=GIB. processes=N counts for N processes.",
    example = "ijepa memory recipes/in1k_vith14.lua gpu=40" },
  { name = "embed", arguments = "MODEL ROOT --out FILE [--layers last|N|patches] [OPTION ...]",
    brief = "write the features of images to a file",
    text = "Writes the features of all images of a folder or tar as .npy, .safetensors or .csv, with their names and " ..
      "classes in FILE.names.csv (in a .csv itself). MODEL is a run or weights in any layout. --layers: last (the mean " ..
      "of the last layer's patches), a number of last blocks, or patches. --dtype f16, --crop, --resize, --batch, " ..
      "--workers, --device, --which, --heads. A run that was stopped resumes from FILE.part.",
    example = "ijepa embed runs/quickstart images/test --out features.npy" },
  { name = "profile", arguments = "RECIPE [key=value ...] [steps=N] [trace=FILE]",
    brief = "where the time of a training step goes",
    text = "Runs steps of a recipe (20, or steps=N, after three that are not timed) and prints the time of its phases " ..
      "(loader, masks, models, backward, update) and of its ops, and the speed of matmuls and attention. Nothing is " ..
      "saved. trace=FILE writes the events for a browser's trace viewer.",
    example = "ijepa profile recipes/quickstart.lua steps=10" },
  { name = "submit", arguments = "RECIPE... --folder F [OPTION ...] [key=value ...]",
    brief = "run recipes as jobs of a SLURM cluster",
    text = "Writes a batch script and hands it to sbatch; an interrupted job saves and is queued again. --dry-run " ..
      "prints the script alone. See docs/slurm.md.",
    example = "ijepa submit recipes/in1k_vith14.lua --folder jobs --nodes 4" },
  { name = "import", arguments = "CONFIG.yaml",
    brief = "print the recipe of a YAML file of the published code",
    text = "Reads a configuration of the published implementation and prints the Lua recipe with the same settings. " ..
      "An unknown key stops it with the key's line.",
    example = "ijepa import configs/in1k_vith14_ep300.yaml > mine.lua" },
  { name = "export", arguments = "RUN_OR_FILE --format pth|hf|timm|safetensors --out PATH",
    brief = "write weights for other programs",
    text = "Writes the weights of a run or checkpoint in the layout of the published code (pth), Hugging Face (hf), " ..
      "timm, or as plain safetensors. --which NAME takes another part than the target encoder; --heads N and " ..
      "--grid ROWS,COLUMNS complete a file that does not hold them. See docs/weights.md.",
    example = "ijepa export runs/mine --format hf --out exported" },
  { name = "manifest", arguments = "FOLDER", brief = "print the SHA-256 sums of a data set",
    text = "Prints the SHA-256 of every image of a folder, or of every tar, for data.manifest and for sha256sum -c.",
    example = "ijepa manifest images > images.sha256" },
  { name = "conform", arguments = "PATH...",
    brief = "compare with results of the published implementation",
    text = "Compares recorded training steps (*.safetensors), checkpoints (*-epN.pth.tar), masks (masks*.json) and " ..
      "crops (crops.json) with what this program computes, and prints the largest error of each with its bound. " ..
      "--all prints every item. Exits with 1 when an error is larger than its bound.",
    example = "ijepa conform recorded/" },
}
